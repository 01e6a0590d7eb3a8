using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.System;

namespace Vmm.Processor.Vmx;

/// <summary>
/// The areas of model-specific registers that VM entry loads and VM exit stores and loads (SDM volume 3, sections 27.4, 28.4 and
/// 28.6): 16 bytes for each, the number in bits 31:0, the value in bits 127:64.
/// </summary>
internal static unsafe class MsrAreas
{
    private const uint SavingFailed = 1, LoadingFailed = 4;
    private const uint TimeStampCounter = 0x10, MicrocodeUpdate = 0x79, MicrocodeSignature = 0x8B, SmmMonitor = 0x9B, FsBase = 0xC000_0100,
        GsBase = 0xC000_0101;

    /// <summary>Loads the VM-entry area. Returns 0, or the number of the entry that failed, counted from 1; those before it are loaded.</summary>
    public static uint Enter(LogicalProcessor cpu, Vmcs vmcs) =>
        Load(cpu, vmcs[VmcsField.VmEntryMsrLoadAddress], vmcs.Read32(VmcsField.VmEntryMsrLoadCount));

    /// <summary>Stores and loads the VM-exit areas. False after a VMX abort, with the indicator set.</summary>
    public static bool Leave(LogicalProcessor cpu, Vmcs vmcs)
    {
        if (!Store(cpu, vmcs[VmcsField.VmExitMsrStoreAddress], vmcs.Read32(VmcsField.VmExitMsrStoreCount)))
            vmcs.AbortIndicator = SavingFailed;
        else if (Load(cpu, vmcs[VmcsField.VmExitMsrLoadAddress], vmcs.Read32(VmcsField.VmExitMsrLoadCount)) != 0)
            vmcs.AbortIndicator = LoadingFailed;
        else
            return true;
        return false;
    }

    private static uint Load(LogicalProcessor cpu, ulong address, uint count)
    {
        for (uint k = 0; k < count; k++)
        {
            uint* entry = Entry(cpu, address, k);
            if (entry == null || entry[1] != 0 || !MayLoad(entry[0]) || !ModelSpecificRegisters.TryWrite(cpu.State, entry[0], *(ulong*)(entry + 2)))
                return k + 1;
        }
        return 0;
    }

    private static bool Store(LogicalProcessor cpu, ulong address, uint count)
    {
        for (uint k = 0; k < count; k++)
        {
            uint* entry = Entry(cpu, address, k);
            if (entry == null || entry[1] != 0 || IsX2Apic(entry[0]))
                return false;
            ulong value;
            if (entry[0] == TimeStampCounter)
                value = cpu.HostTimeStamp;
            else if (!ModelSpecificRegisters.TryRead(cpu.State, entry[0], out value))
                return false;
            *(ulong*)(entry + 2) = value;
            cpu.Package.Code.Written(address + k * 16UL + 8, 8);
        }
        return true;
    }

    // What the manual leaves to the processor beyond so many entries is a failure here: the number is a guest's, the time is ours.
    private static uint* Entry(LogicalProcessor cpu, ulong address, uint number)
    {
        ulong at = address + number * 16UL;
        if (number >= cpu.Environment.Vmx.MsrListLimit || (at & 15) != 0)
            return null;
        byte* page = cpu.Environment.Memory.HostPage(at);
        return page == null ? null : (uint*)(page + (at & 0xFFF));
    }

    private static bool MayLoad(uint index) =>
        index is not (FsBase or GsBase or SmmMonitor or MicrocodeUpdate or MicrocodeSignature) && !IsX2Apic(index);

    private static bool IsX2Apic(uint index) => index >> 8 == 8;
}
