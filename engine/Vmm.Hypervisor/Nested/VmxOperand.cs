using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// The operands of a VMX instruction that L1 executed, from the exit's instruction information and qualification (SDM volume 3,
/// tables 28-10 to 28-14). The processor's state must be that of the exit.
/// </summary>
internal readonly unsafe struct VmxOperand
{
    private const uint RegisterForm = 1 << 10, IndexInvalid = 1 << 22, BaseInvalid = 1 << 27;
    private readonly Vcpu _vcpu;
    private readonly uint _information;

    public VmxOperand(Vcpu vcpu)
    {
        _vcpu = vcpu;
        _information = vcpu.Vmcs.Read32(VmcsField.VmExitInstructionInformation);
    }

    /// <summary>Whether the first operand is a register (VMREAD and VMWRITE only).</summary>
    public bool IsRegister => (_information & RegisterForm) != 0;

    /// <summary>The register in place of a memory operand.</summary>
    public int Register1 => (int)(_information >> 3 & 15);

    /// <summary>The register operand beside: the field's encoding, or the type of an invalidation.</summary>
    public int Register2 => (int)(_information >> 28 & 15);

    /// <summary>
    /// Reads the memory operand. False where that raised an exception, which is injected then: the instruction has ended.
    /// </summary>
    public bool Read(byte* destination, int size)
    {
        if (!Linear(size, write: false, out ulong linear))
            return false;
        return _vcpu.Cpu.Mmu.Read(linear, destination, size) || InjectFault();
    }

    /// <summary>Writes the memory operand. False where that raised an exception, which is injected then.</summary>
    public bool Write(byte* source, int size)
    {
        if (!Linear(size, write: true, out ulong linear))
            return false;
        return _vcpu.Cpu.Mmu.Write(linear, source, size) || InjectFault();
    }

    private bool InjectFault()
    {
        CpuState* s = _vcpu.State;
        if (s->FaultVector == Vector.Pf)
            s->Cr2 = s->FaultAddress;
        if (s->FaultHasError)
            _vcpu.InjectException(s->FaultVector, s->FaultError);
        else
            _vcpu.InjectException(s->FaultVector);
        return false;
    }

    /// <summary>The linear address, after the checks of segmentation.</summary>
    private bool Linear(int size, bool write, out ulong linear)
    {
        CpuState* s = _vcpu.State;
        ulong offset = _vcpu.Vmcs[VmcsField.ExitQualification];
        if ((_information & BaseInvalid) == 0)
            offset += _vcpu.General((int)(_information >> 23 & 15));
        if ((_information & IndexInvalid) == 0)
            offset += _vcpu.General((int)(_information >> 18 & 15)) << (int)(_information & 3);
        offset &= (_information >> 7 & 7) switch { 0 => 0xFFFFUL, 1 => 0xFFFF_FFFF, _ => ulong.MaxValue };
        int number = (int)(_information >> 15 & 7);
        SegmentState* segment = CpuState.Segment(s, number);
        bool fits;
        if (s->CodeSize == 64)
        {
            linear = offset + (number >= Seg.Fs ? segment->Base : 0);
            fits = Canonical.Is(s, linear) && Canonical.Is(s, linear + (ulong)size - 1);
        }
        else
        {
            linear = (uint)(segment->Base + offset);
            fits = Fits(segment, offset, size, write);
        }
        if (!fits)
            _vcpu.InjectException(number == Seg.Ss ? Vector.Ss : Vector.Gp, 0);
        return fits;
    }

    /// <summary>Type and limit of a segment outside 64-bit mode (SDM volume 3, sections 5.3 and 5.5).</summary>
    private static bool Fits(SegmentState* segment, ulong offset, int size, bool write)
    {
        if (segment->Unusable)
            return false;
        bool code = (segment->Rights & SegmentRights.Code) != 0;
        bool second = (segment->Rights & SegmentRights.Writable) != 0;
        if (write ? code || !second : code && !second)
            return false;
        ulong last = offset + (ulong)size - 1;
        if (code || (segment->Rights & SegmentRights.ExpandDown) == 0)
            return last <= segment->Limit;
        ulong top = (segment->Rights & SegmentRights.Big) != 0 ? 0xFFFF_FFFF : 0xFFFF;
        return offset > segment->Limit && last <= top;
    }
}
