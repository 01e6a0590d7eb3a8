using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Tests.SystemInstructions;

/// <summary>What the tests of events and segmentation share: gates, descriptors and handlers that halt.</summary>
internal static unsafe class SystemGuest
{
    /// <summary>Handlers that set up their vector in EBX (RBX) and halt stand here, 16 bytes apart.</summary>
    public const ulong Handlers = 0x2_0000;

    /// <summary>The inner stack that the task-state segment names for level 0, and the one of IST entry 1.</summary>
    public const ulong InnerStack = 0x8000, TableStack = 0xA000;

    /// <summary>Fills the IDT with 64-bit interrupt gates to handlers that put their vector in EBX and halt; sets RSP0 and IST1.</summary>
    public static TestGuest WithLongHandlers(this TestGuest guest)
    {
        for (uint vector = 0; vector < 256; vector++)
        {
            guest.SetGate64(vector, Handler(guest, vector, 64), TestGuest.Code64, 14, 0);
        }
        guest.Write(TestGuest.TssBase + 4, [InnerStack]);
        guest.Write(TestGuest.TssBase + 36, [TableStack]);
        return guest;
    }

    /// <summary>The same with 32-bit gates.</summary>
    public static TestGuest WithProtectedHandlers(this TestGuest guest)
    {
        for (uint vector = 0; vector < 256; vector++)
            guest.SetGate32(vector, Handler(guest, vector, 32), TestGuest.Code32, 14, 0);
        guest.Write(TestGuest.TssBase + 4, [InnerStack | (ulong)TestGuest.Data << 32]);
        return guest;
    }

    /// <summary>The IVT of real mode with handlers in segment 0x2000.</summary>
    public static TestGuest WithRealHandlers(this TestGuest guest)
    {
        for (uint vector = 0; vector < 256; vector++)
        {
            ulong handler = Handler(guest, vector, 16);
            guest.Write(vector * 4UL, [(byte)handler, (byte)(handler >> 8), (byte)0x00, (byte)0x20]);
        }
        return guest;
    }

    public static void SetGate64(this TestGuest guest, uint vector, ulong target, ushort selector, int type, int dpl, int table = 0, bool present = true) =>
        guest.Write(TestGuest.IdtBase + vector * 16UL, [Gate(target, selector, type, dpl, present) | (ulong)table << 32, target >> 32]);

    public static void SetGate32(this TestGuest guest, uint vector, ulong target, ushort selector, int type, int dpl, bool present = true) =>
        guest.Write(TestGuest.IdtBase + vector * 8UL, [Gate(target, selector, type, dpl, present)]);

    public static ulong Gate(ulong target, ushort selector, int type, int dpl, bool present = true) =>
        (target & 0xFFFF) | (ulong)selector << 16 | (ulong)type << 40 | (ulong)dpl << 45 | (present ? 1UL << 47 : 0) | (target >> 16 & 0xFFFF) << 48;

    /// <summary>A segment descriptor; the limit in bytes, or in pages where rights have G.</summary>
    public static ulong Descriptor(uint address, uint limit, uint rights) =>
        (limit & 0xFFFF) | ((ulong)(limit >> 16 & 0xF) << 48) | ((ulong)(rights & 0xF0FF) << 40) | ((ulong)(address & 0xFF_FFFF) << 16) | ((ulong)(address >> 24) << 56);

    public static void SetDescriptor(this TestGuest guest, int index, ulong descriptor) => guest.Write(TestGuest.GdtBase + (ulong)index * 8, [descriptor]);

    /// <summary>The value at a distance from the current stack pointer.</summary>
    public static ulong Stack64(this TestGuest guest, int index) => guest.Read<ulong>(guest.State->Gpr[Gpr.Rsp] + (ulong)index * 8);
    public static uint Stack32(this TestGuest guest, int index) => guest.Read<uint>((uint)(guest.State->Ss.Base + guest.State->Gpr[Gpr.Rsp]) + (ulong)index * 4);
    public static ushort Stack16(this TestGuest guest, int index) => guest.Read<ushort>((uint)(guest.State->Ss.Base + (guest.State->Gpr[Gpr.Rsp] & 0xFFFF)) + (ulong)index * 2);

    public static ulong Rbx(this TestGuest guest) => guest.State->Gpr[Gpr.Rbx];
    public static ulong Rax(this TestGuest guest) => guest.State->Gpr[Gpr.Rax];

    /// <summary>Runs and expects the guest to halt in the handler of a vector.</summary>
    public static void ExpectVector(this TestGuest guest, uint vector)
    {
        ExitReason reason = guest.Run();
        Xunit.Assert.True(reason == ExitReason.Hlt, $"Left with {reason} at {guest.State->Rip:x}, fault {guest.State->FaultVector} error {guest.State->FaultError:x}.");
        Xunit.Assert.Equal(0xE000UL + vector, guest.Rbx() & 0xFFFF);
    }

    /// <summary>Runs until the HLT that the program ends with.</summary>
    public static void ExpectHalt(this TestGuest guest)
    {
        ExitReason reason = guest.Run();
        Xunit.Assert.True(reason == ExitReason.Hlt && (guest.Rbx() & 0xF000) != 0xE000,
            $"Left with {reason} at {guest.State->Rip:x}, RBX {guest.Rbx():x}, fault {guest.State->FaultVector} error {guest.State->FaultError:x}.");
    }

    private static ulong Handler(TestGuest guest, uint vector, int bitness)
    {
        ulong at = Handlers + vector * 16;
        // MOV EBX (BX), imm; HLT. Position-independent, so real mode may run it in segment 0x2000.
        uint value = 0xE000 + vector;
        if (bitness == 16)
            guest.Write(at, [(byte)0xBB, (byte)value, (byte)(value >> 8), (byte)0xF4]);
        else
            guest.Write(at, [(byte)0xBB, (byte)value, (byte)(value >> 8), (byte)0, (byte)0, (byte)0xF4]);
        return bitness == 16 ? at - Handlers : at;
    }
}
