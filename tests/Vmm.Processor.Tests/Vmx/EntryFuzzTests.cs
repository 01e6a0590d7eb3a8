using Vmm.Processor.State;
using Vmm.Processor.Tests.SystemInstructions;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>
/// Entries on a VMCS with a few random changes, into random code: whatever the processor makes of it, it comes back, says which rule a
/// refused VMCS violates, and saves a guest state that it would enter again. Compiled code leaves the same VMCS and registers as the interpreter.
/// </summary>
public sealed unsafe class EntryFuzzTests(ITestOutputHelper output)
{
    private static readonly VmcsField[] Fields = [.. VmcsCatalogue.Fields.Where(f => f.Type is VmcsFieldType.Guest or VmcsFieldType.Control).Select(f => f.Field)];

    // Compiling takes most of the time.
    private const int Cases = 1500, CompiledCases = 400;

    /// <summary>Instructions of all modes, so that random code comes further than to its first fault: arithmetic, the stack, branches, and what may exit.</summary>
    private static readonly byte[][] Pieces =
    [
        [0x01, 0xD8], [0x11, 0xC8], [0x29, 0xF7], [0x31, 0xC2], [0x39, 0xD8], [0x83, 0xC6, 0x05], [0xC1, 0xE0, 0x03], [0xD1, 0xDA], [0x0F, 0xAF, 0xC3], [0xF7, 0xE1],
        [0x50], [0x5B], [0x9C], [0x9D], [0x90], [0x87, 0xD9], [0x0F, 0xBE, 0xC4], [0x0F, 0x94, 0xC1], [0x74, 0x02], [0x75, 0xF0], [0xEB, 0x01], [0xE2, 0xF4],
        [0xFA], [0xFB], [0xF4], [0x0F, 0xA2], [0x0F, 0x31], [0xE4, 0x60], [0xCC], [0x0F, 0x20, 0xC0],
    ];

    private static readonly EventType[] Types = [EventType.ExternalInterrupt, EventType.Nmi, EventType.HardwareException, EventType.SoftwareInterrupt,
        EventType.PrivilegedSoftwareException, EventType.SoftwareException, EventType.Other];

    [Theory]
    [Tiers(1, 2, 3)]
    public void WhatIsSavedCanBeEntered(int seed, Tier tier)
    {
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var outcomes = new Dictionary<ExitReason, int>();
        int cases = tier == Tier.Interpreter || Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1" ? Cases : CompiledCases;
        long compiled = 0;
        for (int k = 0; k < cases; k++)
        {
            int drawn = random.Next();
            using VmxGuest guest = Draw(k % 3, new Random(drawn), tier);
            using VmxGuest? interpreted = tier == Tier.Interpreter ? null : Draw(k % 3, new Random(drawn), Tier.Interpreter);
            ExitReason last = default;
            for (int entry = 0; entry < 4; entry++)
            {
                ExitReason reason = guest.Resume(200);
                interpreted?.Resume(200);
                string differences = interpreted == null ? "" : Differences(interpreted, guest);
                Assert.True(differences.Length == 0, $"seed {seed}, case {k}, entry {entry}, {reason} (interpreted, compiled): {differences}");
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
            compiled += guest.Guest.Translated?.Installed ?? 0;
        }
        output.WriteLine($"{compiled} compiled");
        Assert.True(tier == Tier.Interpreter || compiled > cases / 8, "hardly anything was compiled");
        foreach ((ExitReason reason, int count) in outcomes.OrderByDescending(o => o.Value))
            output.WriteLine($"{reason} {count}");
        Assert.True(outcomes.Count > 8, "too few outcomes to have tried much");
    }

    /// <summary>A guest in one of three modes, with random code and a VMCS that is changed at random.</summary>
    private static VmxGuest Draw(int mode, Random random, Tier tier)
    {
        var guest = new VmxGuest(tier: tier);
        if (mode == 0)
            guest.Guest.WithLongHandlers();
        else if (mode == 1)
            guest.InProtectedMode(random.Next(2) * 3).Guest.WithProtectedHandlers();
        else
            guest.InRealMode().Guest.WithRealHandlers();
        List<byte> code = [];
        while (code.Count < 64)
            code.AddRange(random.Next(12) == 0 ? [(byte)random.Next(256)] : Pieces[random.Next(Pieces.Length)]);
        guest.Guest.Write(guest[VmcsField.GuestRip], [.. code]);
        guest.Guest.Write(0x8_0000, [0x8_1000UL, 0x8_1000, 0, 0]);
        Spoil(guest, random);
        return guest;
    }

    private static string Differences(VmxGuest interpreted, VmxGuest compiled)
    {
        var found = new List<string>();
        foreach (VmcsFieldEntry field in VmcsCatalogue.Fields)
            Check(field.Name, interpreted[field.Field], compiled[field.Field]);
        for (int k = 0; k < 16; k++)
            Check($"GPR {k}", interpreted.State->Gpr[k], compiled.State->Gpr[k]);
        for (int k = 0; k < 32; k++)
            Check($"XMM {k >> 1}", interpreted.State->Xmm[k], compiled.State->Xmm[k]);
        Check("CR2", interpreted.State->Cr2, compiled.State->Cr2);
        Check("DR6", interpreted.State->Dr6, compiled.State->Dr6);
        Check("retired", interpreted.Guest.Cpu.InstructionsRetired, compiled.Guest.Cpu.InstructionsRetired);
        return string.Join("; ", found);

        void Check(string name, ulong mine, ulong theirs)
        {
            if (mine != theirs)
                found.Add($"{name}: {mine:x} and {theirs:x}");
        }
    }

    private static void Spoil(VmxGuest guest, Random random)
    {
        VmxCapabilities hardware = guest.Guest.Cpu.Environment.Vmx;
        // Controls at random would hardly ever be entered, so mostly they are of those that exist.
        guest.Pin = (PinControls)(random.Next() & (int)(PinControls.PreemptionTimer | PinControls.NmiExiting | PinControls.VirtualNmis));
        if ((guest.Pin & PinControls.VirtualNmis) != 0)
            guest.Pin |= PinControls.NmiExiting;
        ProcControls never = ProcControls.TprShadow | ProcControls.Cr8LoadExiting | ProcControls.Cr8StoreExiting;
        // Most of the guests come further than one instruction.
        if (random.Next(4) != 0)
            never |= ProcControls.MonitorTrapFlag | ProcControls.NmiWindowExiting | ProcControls.InterruptWindowExiting;
        guest.Proc |= (ProcControls)(random.Next() & (int)hardware.Allowed1(VmxControlWord.Proc)) & ~never;
        if ((guest.Pin & PinControls.VirtualNmis) == 0)
            guest.Proc &= ~ProcControls.NmiWindowExiting;
        guest[VmcsField.SecondaryControls] |= (uint)random.Next() & (uint)(SecondaryControls.DescriptorTableExiting | SecondaryControls.EnableRdtscp
            | SecondaryControls.PauseLoopExiting | SecondaryControls.UserWaitPause | SecondaryControls.EnableXsaves | SecondaryControls.RdrandExiting);
        guest[VmcsField.ExceptionBitmap] = (uint)random.Next() & (uint)random.Next();
        guest[VmcsField.IoBitmapA] = guest[VmcsField.IoBitmapB] = guest[VmcsField.MsrBitmaps] = 0xA_0000;
        guest[VmcsField.PreemptionTimerValue] = (uint)random.Next(random.Next(2) == 0 ? 4 : 100);
        guest[VmcsField.GuestRflags] = Rflags.Fixed1 | (uint)random.Next() & (Rflags.Arithmetic | Rflags.Tf | Rflags.If | Rflags.Rf | Rflags.Nt | Rflags.Ac | Rflags.Df);
        if (random.Next(4) != 0)
            guest[VmcsField.GuestRflags] &= ~Rflags.Tf;
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
