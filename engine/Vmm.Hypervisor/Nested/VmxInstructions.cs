using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>VM-instruction error numbers (SDM volume 3, section 31.4).</summary>
public enum VmInstructionError : uint
{
    VmcallInRoot = 1, VmclearAddress = 2, VmclearVmxonPointer = 3, VmlaunchNotClear = 4, VmresumeNotLaunched = 5,
    InvalidControls = 7, InvalidHostState = 8, VmptrldAddress = 9, VmptrldVmxonPointer = 10, VmptrldRevision = 11,
    UnsupportedField = 12, ReadOnlyField = 13, VmxonInRoot = 15, EventsBlockedByMovSs = 26, InvalidInvalidation = 28,
}

/// <summary>
/// The VMX instructions as L1 executes them in VMX root operation (SDM volume 3, chapter 31), each after its VM exit to L0. One
/// that ends without an exception moves RIP on; VMLAUNCH and VMRESUME that succeed go on in L2.
/// </summary>
internal static unsafe class VmxInstructions
{
    private const ulong ArithmeticFlags = Rflags.Cf | Rflags.Pf | Rflags.Af | Rflags.Zf | Rflags.Sf | Rflags.Of;
    private const ulong BlockedByMovSs = 1 << 1;

    public static void Vmxon(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        CpuState* s = vcpu.State;
        if (!vcpu.Machine.Model.Vmx || (vcpu.GuestCr4 & Cr4.Vmxe) == 0 || IsUndefined(s))
        {
            vcpu.InjectException(Vector.Ud);
            return;
        }
        ulong cr0 = vcpu.Vmcs[VmcsField.GuestCr0];
        if (s->Cpl != 0 || (!nested.IsOn && (!nested.Capabilities.AllowsCr0(cr0) || !nested.Capabilities.AllowsCr4(vcpu.GuestCr4))))
        {
            vcpu.InjectException(Vector.Gp, 0);
            return;
        }
        ulong address;
        if (!new VmxOperand(vcpu).Read((byte*)&address, 8))
            return;
        if (nested.IsOn)
        {
            Fail(vcpu, VmInstructionError.VmxonInRoot);
            return;
        }
        if (!nested.IsRegion(address) || nested.ReadHeader(address) != nested.Capabilities.RevisionId)
        {
            FailInvalid(vcpu);
            return;
        }
        nested.Reset();
        nested.IsOn = true;
        nested.VmxonPointer = address;
        vcpu.VmxOperationChanged();
        Succeed(vcpu);
    }

    public static void Vmxoff(Vcpu vcpu)
    {
        if (!MayExecute(vcpu))
            return;
        vcpu.Nested.ReleaseCurrent(clear: false);
        vcpu.Nested.Reset();
        vcpu.VmxOperationChanged();
        Succeed(vcpu);
    }

    public static void Vmclear(Vcpu vcpu)
    {
        ulong address;
        NestedVmx nested = vcpu.Nested;
        if (!MayExecute(vcpu) || !new VmxOperand(vcpu).Read((byte*)&address, 8))
            return;
        if (!nested.IsRegion(address))
        {
            Fail(vcpu, VmInstructionError.VmclearAddress);
        }
        else if (address == nested.VmxonPointer)
        {
            Fail(vcpu, VmInstructionError.VmclearVmxonPointer);
        }
        else
        {
            // With enlightened VM entries what is not current is taken for an enlightened VMCS, which has no launch state to write.
            if (address == nested.CurrentPointer)
                nested.ReleaseCurrent(clear: true);
            else if (vcpu.AssistPage.EnlightenedVmcs is null)
                nested.ClearLaunchState(address);
            else if (address == nested.EnlightenedPointer)
                nested.ReleaseEnlightened();
            Succeed(vcpu);
        }
    }

    public static void Vmptrld(Vcpu vcpu)
    {
        ulong address;
        NestedVmx nested = vcpu.Nested;
        if (!MayExecute(vcpu) || !new VmxOperand(vcpu).Read((byte*)&address, 8))
            return;
        if (!nested.IsRegion(address))
        {
            Fail(vcpu, VmInstructionError.VmptrldAddress);
        }
        else if (address == nested.VmxonPointer)
        {
            Fail(vcpu, VmInstructionError.VmptrldVmxonPointer);
        }
        else if (!HasRevision(nested, nested.ReadHeader(address)))
        {
            Fail(vcpu, VmInstructionError.VmptrldRevision);
        }
        else
        {
            if (address != nested.CurrentPointer)
            {
                nested.ReleaseCurrent(clear: false);
                nested.ReleaseEnlightened();
                nested.LoadCurrent(address);
            }
            Succeed(vcpu);
        }
    }

    public static void Vmptrst(Vcpu vcpu)
    {
        if (!MayExecute(vcpu))
            return;
        ulong pointer = vcpu.Nested.CurrentPointer;
        if (new VmxOperand(vcpu).Write((byte*)&pointer, 8))
            Succeed(vcpu);
    }

    public static void Vmread(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        if (!MayExecute(vcpu))
            return;
        if (!nested.HasVmcs12)
        {
            FailInvalid(vcpu);
            return;
        }
        var operand = new VmxOperand(vcpu);
        ulong value = 0;
        // An enlightened VMCS is to be read as memory, the specification says; some guests read it so all the same.
        if (VmcsCatalogue.Find(RegisterOperand(vcpu, operand), nested.Capabilities, out bool high) is not { } field
            || (nested.IsEnlightened && !nested.TryReadEnlightened(field.Field, out value)))
        {
            Fail(vcpu, VmInstructionError.UnsupportedField);
            return;
        }
        if (!nested.IsEnlightened)
            value = nested.Vmcs12[field.Field];
        if (high)
            value >>= 32;
        bool wide = vcpu.State->CodeSize == 64;
        if (operand.IsRegister)
            vcpu.SetGeneral(operand.Register1, wide ? value : (uint)value);
        else if (!operand.Write((byte*)&value, wide ? 8 : 4))
            return;
        Succeed(vcpu);
    }

    public static void Vmwrite(Vcpu vcpu)
    {
        NestedVmx nested = vcpu.Nested;
        if (!MayExecute(vcpu))
            return;
        if (!nested.HasCurrent)
        {
            FailInvalid(vcpu);
            return;
        }
        var operand = new VmxOperand(vcpu);
        bool wide = vcpu.State->CodeSize == 64;
        ulong value = 0;
        // The source is read before the field is looked at: its fault comes first (SDM volume 3, VMWRITE).
        if (operand.IsRegister)
            value = vcpu.General(operand.Register1);
        else if (!operand.Read((byte*)&value, wide ? 8 : 4))
            return;
        if (!wide)
            value = (uint)value;
        if (VmcsCatalogue.Find(RegisterOperand(vcpu, operand), nested.Capabilities, out bool high) is not { } field)
        {
            Fail(vcpu, VmInstructionError.UnsupportedField);
        }
        else if (field.IsReadOnly && !nested.Capabilities.VmwriteToAll)
        {
            Fail(vcpu, VmInstructionError.ReadOnlyField);
        }
        else
        {
            ulong old = nested.Vmcs12[field.Field];
            // Bits of the field beyond the operand's size are cleared (SDM volume 3, VMWRITE).
            nested.Vmcs12[field.Field] = high ? (uint)old | value << 32 : value & field.ValueMask;
            Succeed(vcpu);
        }
    }

    public static void Enter(Vcpu vcpu, bool launch)
    {
        NestedVmx nested = vcpu.Nested;
        if (!MayExecute(vcpu))
            return;
        EnlightenedEntry enlightened = nested.LoadEnlightened(launch);
        if (enlightened == EnlightenedEntry.NotMemory)
            vcpu.InjectException(Vector.Ud);
        else if (enlightened == EnlightenedEntry.Refused || !nested.HasVmcs12 || nested.IsShadow)
            FailInvalid(vcpu);
        else if ((vcpu.Vmcs[VmcsField.GuestInterruptibility] & BlockedByMovSs) != 0)
            NestedEntry.Refuse(vcpu, VmInstructionError.EventsBlockedByMovSs);
        else if (launch && nested.IsLaunched)
            NestedEntry.Refuse(vcpu, VmInstructionError.VmlaunchNotClear);
        else if (!launch && !nested.IsLaunched)
            NestedEntry.Refuse(vcpu, VmInstructionError.VmresumeNotLaunched);
        else
            NestedEntry.Enter(vcpu);
    }

    public static void Invept(Vcpu vcpu)
    {
        const ulong SingleContext = 1, AllContexts = 2;
        NestedVmx nested = vcpu.Nested;
        if (!nested.Capabilities.Allows(EptVpidCapabilities.Invept))
        {
            vcpu.InjectException(Vector.Ud);
            return;
        }
        if (!MayExecute(vcpu))
            return;
        var operand = new VmxOperand(vcpu);
        ulong type = RegisterOperand(vcpu, operand);
        bool supported = (type == SingleContext && nested.Capabilities.Allows(EptVpidCapabilities.InveptSingle))
            || (type == AllContexts && nested.Capabilities.Allows(EptVpidCapabilities.InveptAll));
        ulong* descriptor = stackalloc ulong[2];
        if (!supported)
        {
            Fail(vcpu, VmInstructionError.InvalidInvalidation);
            return;
        }
        if (!operand.Read((byte*)descriptor, 16))
            return;
        if (type == SingleContext && !nested.IsEptPointer(descriptor[0]))
        {
            Fail(vcpu, VmInstructionError.InvalidInvalidation);
            return;
        }
        vcpu.Cpu.Mmu.InvalidateEpt(type == SingleContext ? descriptor[0] : null);
        Succeed(vcpu);
    }

    public static void Invvpid(Vcpu vcpu)
    {
        const ulong Address = 0, AllContexts = 2, SingleRetainingGlobals = 3;
        NestedVmx nested = vcpu.Nested;
        if (!nested.Capabilities.Allows(EptVpidCapabilities.Invvpid))
        {
            vcpu.InjectException(Vector.Ud);
            return;
        }
        if (!MayExecute(vcpu))
            return;
        var operand = new VmxOperand(vcpu);
        ulong type = RegisterOperand(vcpu, operand);
        bool supported = type <= SingleRetainingGlobals
            && nested.Capabilities.Allows((EptVpidCapabilities)((ulong)EptVpidCapabilities.InvvpidAddress << (int)type));
        ulong* descriptor = stackalloc ulong[2];
        if (!supported)
        {
            Fail(vcpu, VmInstructionError.InvalidInvalidation);
            return;
        }
        if (!operand.Read((byte*)descriptor, 16))
            return;
        ulong vpid = descriptor[0], linear = descriptor[1];
        if (vpid >> 16 != 0 || (vpid == 0 && type != AllContexts) || (type == Address && !nested.IsCanonical(linear)))
        {
            Fail(vcpu, VmInstructionError.InvalidInvalidation);
            return;
        }
        if (type == Address)
            vcpu.Cpu.Mmu.InvalidateVpidAddress((ushort)vpid, linear);
        else
            vcpu.Cpu.Mmu.InvalidateVpid(type == AllContexts ? null : (ushort)vpid);
        Succeed(vcpu);
    }

    /// <summary>VMsucceed: clears the arithmetic flags, and goes on behind the instruction.</summary>
    public static void Succeed(Vcpu vcpu) => Complete(vcpu, 0);

    /// <summary>VMfailInvalid: there is no current VMCS to say why.</summary>
    public static void FailInvalid(Vcpu vcpu) => Complete(vcpu, Rflags.Cf);

    /// <summary>VMfail: VMfailValid with an error number where there is a current VMCS, VMfailInvalid elsewhere.</summary>
    public static void Fail(Vcpu vcpu, VmInstructionError error)
    {
        // A shadow VMCS may be current, and takes no error.
        if (!vcpu.Nested.HasVmcs12)
        {
            FailInvalid(vcpu);
            return;
        }
        vcpu.Nested.Vmcs12[VmcsField.VmInstructionError] = (uint)error;
        vcpu.Nested.StoreEnlightenedError();
        Complete(vcpu, Rflags.Zf);
    }

    private static void Complete(Vcpu vcpu, ulong flags)
    {
        vcpu.Vmcs[VmcsField.GuestRflags] = (vcpu.Vmcs[VmcsField.GuestRflags] & ~ArithmeticFlags) | flags;
        vcpu.SkipInstruction();
    }

    /// <summary>The checks that all but VMXON share. False where they ended in an exception.</summary>
    private static bool MayExecute(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        if (!vcpu.Nested.IsOn || IsUndefined(s))
        {
            vcpu.InjectException(Vector.Ud);
            return false;
        }
        if (s->Cpl != 0)
        {
            vcpu.InjectException(Vector.Gp, 0);
            return false;
        }
        return true;
    }

    /// <summary>Real-address, virtual-8086 and compatibility mode have no VMX instructions.</summary>
    private static bool IsUndefined(CpuState* s) =>
        (s->Cr0 & Cr0.Pe) == 0 || (s->SystemFlags & Rflags.Vm) != 0 || ((s->Efer & Efer.Lma) != 0 && s->CodeSize != 64);

    private static bool HasRevision(NestedVmx nested, uint header) =>
        header == nested.Capabilities.RevisionId
        || (header == (nested.Capabilities.RevisionId | Vmcs12Layout.ShadowIndicator) && nested.Capabilities.Allows(SecondaryControls.VmcsShadowing));

    /// <summary>The operand that is always a register: a field's encoding, or the type of an invalidation.</summary>
    private static ulong RegisterOperand(Vcpu vcpu, in VmxOperand operand)
    {
        ulong encoding = vcpu.General(operand.Register2);
        return vcpu.State->CodeSize == 64 ? encoding : (uint)encoding;
    }
}
