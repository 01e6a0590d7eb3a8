using Vmm.Hypervisor.Apic;

namespace Vmm.Hypervisor.Tests.Apic;

/// <summary>Some local APICs on a bus, with a clock and recording owners.</summary>
internal sealed class ApicBench : IDisposable, IExternalInterruptController, IEndOfInterruptListener
{
    public ApicBench(int count = 1)
    {
        Owners = [.. Enumerable.Range(0, count).Select(_ => new Owner())];
        Apics = [.. Owners.Select((owner, i) => new LocalApic((uint)i, i == 0, 46, owner, Clock, Bus))];
        Bus.ExternalInterrupts = this;
        Bus.EndOfInterruptListener = this;
    }

    public ManualClock Clock { get; } = new();

    public ApicBus Bus { get; } = new();

    public Owner[] Owners { get; }

    public LocalApic[] Apics { get; }

    public LocalApic Apic => Apics[0];

    public List<byte> EndsOfInterrupt { get; } = [];

    public byte PicVector { get; set; } = 0x30;

    public int Acknowledged { get; private set; }

    /// <summary>Switches all APICs on with spurious vector 0xFF.</summary>
    public ApicBench Enabled()
    {
        foreach (LocalApic apic in Apics)
            apic.WriteMemory(ApicRegister.SpuriousVector, 4, 0x1FF);
        return this;
    }

    /// <summary>Brings all APICs into x2APIC mode.</summary>
    public ApicBench X2()
    {
        foreach (LocalApic apic in Apics)
            Assert.True(apic.TrySetBase(apic.BaseMsr | 0x400));
        return this;
    }

    public uint Read(uint register) => (uint)Apic.ReadMemory(register, 4);

    public void Write(uint register, uint value) => Apic.WriteMemory(register, 4, value);

    public void Command(uint destination, uint command)
    {
        Write(ApicRegister.CommandHigh, destination << 24);
        Write(ApicRegister.CommandLow, command);
    }

    public byte Acknowledge()
    {
        Acknowledged++;
        return PicVector;
    }

    public void EndOfInterrupt(byte vector) => EndsOfInterrupt.Add(vector);

    public void Dispose()
    {
        foreach (LocalApic apic in Apics)
            apic.Dispose();
    }

    internal sealed class Owner : ILocalApicOwner
    {
        public int Interrupts, Nmis, Smis, Inits;

        public List<byte> StartUps { get; } = [];

        public uint Priority { get; private set; }

        public ulong TscOffset { get; set; }

        public void InterruptPending() => Interrupts++;

        public void NonMaskableInterrupt() => Nmis++;

        public void SystemManagementInterrupt() => Smis++;

        public void Init() => Inits++;

        public void StartUp(byte page) => StartUps.Add(page);

        public int ModeChanges;

        public void ModeChanged() => ModeChanges++;

        public void TaskPriorityChanged(uint priority) => Priority = priority;
    }
}
