using System.Buffers.Binary;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.SystemManagement;

/// <summary>
/// The state save map of SMRAM for Intel 64 (SDM volume 3, table 32-3): where SMI delivery puts the registers, and RSM takes them from.
/// What the manual gives no place, the hidden parts of segment registers and the limits of descriptor tables, is in what it reserves.
/// </summary>
internal static unsafe class SaveStateMap
{
    /// <summary>Where the map is, from SMBASE.</summary>
    public const uint Offset = 0x8000 + First;

    /// <summary>Its length in bytes: it ends with the 64 KiB from SMBASE on.</summary>
    public const int Size = 0x400;

    /// <summary>
    /// The revision of the map, with bit 17: SMBASE can be relocated. Without bit 16: there is no restart of I/O instructions (SDM volume 3,
    /// section 32.9).
    /// </summary>
    public const uint Revision = 0x2_0101;

    // The manual counts from SMBASE + 8000H.
    private const int First = 0x7C00;
    private const int Hidden = 0x7C00 - First, HiddenSize = 16, GdtLimit = 0x7C80 - First, IdtLimit = 0x7C84 - First, GdtBaseHigh = 0x7DD0 - First,
        LdtBaseHigh = 0x7DD4 - First, IdtBaseHigh = 0x7DD8 - First, Cr4At = 0x7E40 - First, GdtBaseLow = 0x7E8C - First, IdtBaseLow = 0x7E94 - First,
        LdtBaseLow = 0x7E9C - First, EptPointer = 0x7ED8 - First, EnableEpt = 0x7EE0 - First, BaseAt = 0x7EF8 - First, RevisionAt = 0x7EFC - First,
        AutoHaltRestart = 0x7F02 - First, R15 = 0x7F1C - First, Rax = 0x7F5C - First, Selectors = 0x7FA8 - First, Dr7At = 0x7FC8 - First,
        Dr6At = 0x7FD0 - First, RipAt = 0x7FD8 - First, EferAt = 0x7FE0 - First, RflagsAt = 0x7FE8 - First, Cr3At = 0x7FF0 - First, Cr0At = 0x7FF8 - First;

    // By the register's number: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI go up from RAX's place, R8 to R15 down to R15's.
    private static ReadOnlySpan<ushort> General => [Rax, 0x7F64 - First, 0x7F6C - First, 0x7F74 - First, 0x7F7C - First, 0x7F84 - First, 0x7F8C - First, 0x7F94 - First];

    // By the segment's number, ES, CS, SS, DS, FS, GS, then LDTR and TR: the map has them in this order, four bytes each.
    private static int Selector(int segment) => Selectors + segment * 4;

    /// <summary>Saves the registers of the guest that runs.</summary>
    /// <param name="vcpu">The vCPU.</param>
    /// <param name="smbase">SMBASE.</param>
    /// <param name="cr4">CR4 as it is to be saved.</param>
    /// <param name="halted">Whether the guest waits in HLT.</param>
    /// <param name="map">The map, zeroed.</param>
    public static void Save(Vcpu vcpu, uint smbase, ulong cr4, bool halted, Span<byte> map)
    {
        Vmcs vmcs = vcpu.Vmcs;
        CpuState* s = vcpu.State;
        for (int register = 0; register < 16; register++)
            Write64(map, At(register), vcpu.General(register));
        for (int segment = Seg.Es; segment <= Seg.Tr; segment++)
        {
            Write32(map, Selector(segment), (uint)vmcs[Vcpu.SegmentField(VmcsField.GuestEsSelector, segment)]);
            int hidden = Hidden + segment * HiddenSize;
            Write64(map, hidden, vmcs[Vcpu.SegmentField(VmcsField.GuestEsBase, segment)]);
            Write32(map, hidden + 8, vmcs.Read32(Vcpu.SegmentField(VmcsField.GuestEsLimit, segment)));
            Write32(map, hidden + 12, vmcs.Read32(Vcpu.SegmentField(VmcsField.GuestEsAccessRights, segment)));
        }
        WriteHalves(map, GdtBaseLow, GdtBaseHigh, vmcs[VmcsField.GuestGdtrBase]);
        WriteHalves(map, IdtBaseLow, IdtBaseHigh, vmcs[VmcsField.GuestIdtrBase]);
        WriteHalves(map, LdtBaseLow, LdtBaseHigh, vmcs[VmcsField.GuestLdtrBase]);
        Write32(map, GdtLimit, vmcs.Read32(VmcsField.GuestGdtrLimit));
        Write32(map, IdtLimit, vmcs.Read32(VmcsField.GuestIdtrLimit));
        if (vcpu.IsGuestMode && vcpu.Nested.Has(SecondaryControls.EnableEpt))
        {
            Write32(map, EnableEpt, 1);
            Write64(map, EptPointer, vmcs[VmcsField.EptPointer]);
        }
        Write64(map, Cr0At, vmcs[VmcsField.GuestCr0]);
        Write64(map, Cr3At, vmcs[VmcsField.GuestCr3]);
        Write64(map, Cr4At, cr4);
        Write64(map, EferAt, vmcs[VmcsField.GuestEfer]);
        Write64(map, RflagsAt, vmcs[VmcsField.GuestRflags]);
        Write64(map, RipAt, vmcs[VmcsField.GuestRip]);
        Write64(map, Dr6At, s->Dr6);
        Write64(map, Dr7At, vmcs[VmcsField.GuestDr7]);
        Write32(map, RevisionAt, Revision);
        Write32(map, BaseAt, smbase);
        map[AutoHaltRestart] = halted ? (byte)1 : (byte)0;
    }

    /// <summary>Loads the registers of the guest that runs, as far as they are in the map. CR4 is for the caller.</summary>
    public static void Load(Vcpu vcpu, ReadOnlySpan<byte> map)
    {
        Vmcs vmcs = vcpu.Vmcs;
        CpuState* s = vcpu.State;
        for (int register = 0; register < 16; register++)
            vcpu.SetGeneral(register, Read64(map, At(register)));
        for (int segment = Seg.Es; segment <= Seg.Tr; segment++)
        {
            int hidden = Hidden + segment * HiddenSize;
            vcpu.SetSegment(segment, (ushort)Read32(map, Selector(segment)), Read64(map, hidden), Read32(map, hidden + 8), Read32(map, hidden + 12));
        }
        vmcs[VmcsField.GuestLdtrBase] = ReadHalves(map, LdtBaseLow, LdtBaseHigh);
        vmcs[VmcsField.GuestGdtrBase] = ReadHalves(map, GdtBaseLow, GdtBaseHigh);
        vmcs[VmcsField.GuestIdtrBase] = ReadHalves(map, IdtBaseLow, IdtBaseHigh);
        vmcs[VmcsField.GuestGdtrLimit] = Read32(map, GdtLimit);
        vmcs[VmcsField.GuestIdtrLimit] = Read32(map, IdtLimit);
        vmcs[VmcsField.GuestCr0] = Read64(map, Cr0At);
        vmcs[VmcsField.GuestCr3] = Read64(map, Cr3At);
        vmcs[VmcsField.GuestEfer] = Read64(map, EferAt);
        vmcs[VmcsField.GuestRflags] = (Read64(map, RflagsAt) & Rflags.All) | Rflags.Fixed1;
        vmcs[VmcsField.GuestRip] = Read64(map, RipAt);
        vmcs[VmcsField.GuestDr7] = (uint)Read64(map, Dr7At);
        s->Dr6 = (uint)Read64(map, Dr6At);
    }

    /// <summary>CR4 in the map.</summary>
    public static ulong Cr4Of(ReadOnlySpan<byte> map) => Read64(map, Cr4At);

    /// <summary>CR0 in the map.</summary>
    public static ulong Cr0Of(ReadOnlySpan<byte> map) => Read64(map, Cr0At);

    /// <summary>SMBASE in the map: what it will be after RSM (SDM volume 3, section 32.11).</summary>
    public static uint BaseOf(ReadOnlySpan<byte> map) => Read32(map, BaseAt);

    /// <summary>Whether RSM returns to HLT (SDM volume 3, section 32.10).</summary>
    public static bool RestartsHalt(ReadOnlySpan<byte> map) => (map[AutoHaltRestart] & 1) != 0;

    private static int At(int register) => register < 8 ? General[register] : R15 + (15 - register) * 8;

    private static void WriteHalves(Span<byte> map, int low, int high, ulong value)
    {
        Write32(map, low, (uint)value);
        Write32(map, high, (uint)(value >> 32));
    }

    private static ulong ReadHalves(ReadOnlySpan<byte> map, int low, int high) => Read32(map, low) | (ulong)Read32(map, high) << 32;

    private static void Write32(Span<byte> map, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(map[at..], value);

    private static void Write64(Span<byte> map, int at, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(map[at..], value);

    private static uint Read32(ReadOnlySpan<byte> map, int at) => BinaryPrimitives.ReadUInt32LittleEndian(map[at..]);

    private static ulong Read64(ReadOnlySpan<byte> map, int at) => BinaryPrimitives.ReadUInt64LittleEndian(map[at..]);
}
