using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.State;

namespace Vmm.Processor.Vmx;

/// <summary>One answer to CPUID, and the registers on which it may depend.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct CpuidAnswer
{
    /// <summary>Whether there is one.</summary>
    public uint Valid;

    /// <summary>What was asked for, in EAX and ECX.</summary>
    public uint Leaf, Subleaf;

    /// <summary>What came back.</summary>
    public uint Eax, Ebx, Ecx, Edx;

    /// <summary>CR4, XCR0 and IA32_XSS as they were.</summary>
    public ulong Cr4, Xcr0, Xss;
}

/// <summary>
/// Answers to CPUID that a hypervisor of ours leaves with the processor, which gives them again without a VM exit. No hardware does so,
/// and the guest cannot tell. The hypervisor offers them for an entry (<see cref="CpuState.CpuidAnswers"/>) where nobody wants to see the
/// exits, and forgets them when something changes on which they depend besides CR4, XCR0 and IA32_XSS.
/// </summary>
public sealed unsafe class CpuidAnswers : IDisposable
{
    private const int Entries = 64;

    /// <summary>The answers, for the processor.</summary>
    public CpuidAnswer* Table { get; private set; } = (CpuidAnswer*)NativeMemory.AllocZeroed(Entries, (nuint)sizeof(CpuidAnswer));

    /// <summary>Notes an answer, as of the registers in <paramref name="s"/>.</summary>
    public void Note(CpuState* s, uint leaf, uint subleaf, uint eax, uint ebx, uint ecx, uint edx) => *At(Table, leaf, subleaf) = new CpuidAnswer
    {
        Valid = 1,
        Leaf = leaf,
        Subleaf = subleaf,
        Eax = eax,
        Ebx = ebx,
        Ecx = ecx,
        Edx = edx,
        Cr4 = s->Cr4,
        Xcr0 = s->Xcr0,
        Xss = s->Xss,
    };

    /// <summary>Forgets all of them.</summary>
    public void Forget() => new Span<CpuidAnswer>(Table, Entries).Clear();

    /// <summary>Answers the CPUID that the registers describe. False where the answer is not known.</summary>
    internal static bool TryAnswer(CpuState* s)
    {
        uint leaf = (uint)s->Gpr[Gpr.Rax], subleaf = (uint)s->Gpr[Gpr.Rcx];
        CpuidAnswer* answer = At(s->CpuidAnswers, leaf, subleaf);
        if (answer->Leaf != leaf || answer->Subleaf != subleaf || answer->Valid == 0
            || answer->Cr4 != s->Cr4 || answer->Xcr0 != s->Xcr0 || answer->Xss != s->Xss)
            return false;
        s->Gpr[Gpr.Rax] = answer->Eax;
        s->Gpr[Gpr.Rbx] = answer->Ebx;
        s->Gpr[Gpr.Rcx] = answer->Ecx;
        s->Gpr[Gpr.Rdx] = answer->Edx;
        return true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(Table);
        Table = null;
    }

    // The basic, hypervisor and extended leaves are sixteen apart, and so are the first subleaves of one leaf.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static CpuidAnswer* At(CpuidAnswer* table, uint leaf, uint subleaf) =>
        table + ((leaf ^ leaf >> 26 ^ subleaf << 3) & (Entries - 1));
}
