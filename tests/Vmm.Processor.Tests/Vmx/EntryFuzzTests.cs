using Vmm.Processor.State;
using Vmm.Processor.Tests.SystemInstructions;
using Vmm.Processor.Vmx;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>
/// Entries on a VMCS with a few random changes, into random code: whatever the processor makes of it, it comes back, says which rule a
/// refused VMCS violates, and saves a guest state that it would enter again.
/// </summary>
public sealed class EntryFuzzTests(ITestOutputHelper output)
{
    private static readonly VmcsField[] Fields = [.. VmcsCatalogue.Fields.Where(f => f.Type is VmcsFieldType.Guest or VmcsFieldType.Control).Select(f => f.Field)];

    private const int Cases = 1500;

    private static readonly EventType[] Types = [EventType.ExternalInterrupt, EventType.Nmi, EventType.HardwareException, EventType.SoftwareInterrupt,
        EventType.PrivilegedSoftwareException, EventType.SoftwareException, EventType.Other];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void WhatIsSavedCanBeEntered(int seed)
    {
        var random = new Random(seed);
        var outcomes = new Dictionary<ExitReason, int>();
        byte[] code = new byte[64];
        for (int k = 0; k < Cases; k++)
        {
            using var guest = new VmxGuest();
            if (k % 3 == 0)
                guest.Guest.WithLongHandlers();
            else if (k % 3 == 1)
                guest.InProtectedMode(random.Next(2) * 3).Guest.WithProtectedHandlers();
            else
                guest.InRealMode().Guest.WithRealHandlers();
            random.NextBytes(code);
            guest.Guest.Write(guest[VmcsField.GuestRip], code);
            guest.Guest.Write(0x8_0000, [0x8_1000UL, 0x8_1000, 0, 0]);
            Spoil(guest, random);
            ExitReason last = default;
            for (int entry = 0; entry < 4; entry++)
            {
                ExitReason reason = guest.Resume(200);
                outcomes[reason] = outcomes.GetValueOrDefault(reason) + 1;
                if (reason is ExitReason.VmFailValid or ExitReason.InvalidGuestState)
                {
                    // A debug exception that exits behind an STI leaves the blocking and takes the single step: the hypervisor's to mend.
                    bool taken = guest.Vmcs.FailedRule!.Description.StartsWith("pending BS", StringComparison.Ordinal) && last == ExitReason.ExceptionOrNmi
                        && (guest[VmcsField.VmExitInterruptionInformation] & 0xFF) == Vector.Db;
                    Assert.True(entry == 0 || taken, $"seed {seed}, case {k}, entry {entry}: {guest.Vmcs.FailedRule} is violated by what the processor saved with {last}: "
                        + $"RFLAGS {guest[VmcsField.GuestRflags]:x}, interruptibility {guest[VmcsField.GuestInterruptibility]:x}, activity "
                        + $"{guest[VmcsField.GuestActivityState]:x}, pending {guest[VmcsField.GuestPendingDebugExceptions]:x}");
                    break;
                }
                if (reason is ExitReason.MsrLoading or ExitReason.VmxAbort or ExitReason.TripleFault)
                    break;
                last = reason;
            }
        }
        foreach ((ExitReason reason, int count) in outcomes.OrderByDescending(o => o.Value))
            output.WriteLine($"{reason} {count}");
        Assert.True(outcomes.Count > 8, "too few outcomes to have tried much");
    }

    private static void Spoil(VmxGuest guest, Random random)
    {
        VmxCapabilities hardware = guest.Guest.Cpu.Environment.Vmx;
        // Controls at random would hardly ever be entered, so mostly they are of those that exist.
        guest.Pin = (PinControls)(random.Next() & (int)(PinControls.PreemptionTimer | PinControls.NmiExiting | PinControls.VirtualNmis));
        if ((guest.Pin & PinControls.VirtualNmis) != 0)
            guest.Pin |= PinControls.NmiExiting;
        ProcControls never = ProcControls.TprShadow | ProcControls.Cr8LoadExiting | ProcControls.Cr8StoreExiting;
        guest.Proc |= (ProcControls)(random.Next() & (int)hardware.Allowed1(VmxControlWord.Proc)) & ~never;
        if ((guest.Pin & PinControls.VirtualNmis) == 0)
            guest.Proc &= ~ProcControls.NmiWindowExiting;
        guest[VmcsField.SecondaryControls] |= (uint)random.Next() & (uint)(SecondaryControls.DescriptorTableExiting | SecondaryControls.EnableRdtscp
            | SecondaryControls.PauseLoopExiting | SecondaryControls.UserWaitPause | SecondaryControls.EnableXsaves | SecondaryControls.RdrandExiting);
        guest[VmcsField.ExceptionBitmap] = (uint)random.Next() & (uint)random.Next();
        guest[VmcsField.IoBitmapA] = guest[VmcsField.IoBitmapB] = guest[VmcsField.MsrBitmaps] = 0xA_0000;
        guest[VmcsField.PreemptionTimerValue] = (uint)random.Next(4);
        guest[VmcsField.GuestRflags] = Rflags.Fixed1 | (uint)random.Next() & (Rflags.Arithmetic | Rflags.Tf | Rflags.If | Rflags.Rf | Rflags.Nt | Rflags.Ac | Rflags.Df);
        for (int changes = random.Next(2); changes > 0; changes--)
        {
            VmcsField field = Fields[random.Next(Fields.Length)];
            guest[field] = random.Next(3) switch
            {
                0 => guest[field] ^ 1UL << random.Next(VmcsCatalogueWidth(field)),
                1 => (ulong)random.NextInt64() >> 64 - VmcsCatalogueWidth(field),
                _ => (ulong)random.Next(16),
            };
        }
        if (random.Next(2) == 0)
        {
            EventType type = Types[random.Next(Types.Length)];
            guest.Inject(type, type == EventType.Nmi ? 2u : type == EventType.Other ? 0u : (uint)random.Next(type == EventType.HardwareException ? 32 : 256),
                type == EventType.HardwareException && random.Next(2) == 0 ? (uint)random.Next(0x10000) : null, (uint)random.Next(1, 4));
        }
        if (random.Next(8) == 0)
            guest[VmcsField.GuestActivityState] = (ulong)random.Next(4);
        if (random.Next(4) == 0)
            guest[VmcsField.GuestInterruptibility] = (ulong)random.Next(16);
        if (random.Next(4) == 0)
            guest[VmcsField.GuestPendingDebugExceptions] = (ulong)random.Next(0x8000) & 0x500F;
    }

    private static int VmcsCatalogueWidth(VmcsField field) => ((int)field >> 13 & 3) switch { 0 => 16, 2 => 32, _ => 64 };
}
