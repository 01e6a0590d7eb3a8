using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>FXSAVE, FXRSTOR, the XSAVE family and XGETBV.</summary>
internal static unsafe class ExtendedStateTable
{
    /// <summary>Enters all of them.</summary>
    public static void Fill<M>(HandlerTable t) where M : struct, IAddressing
    {
        t.Add(Code.Fxsave_m512byte, null, &XsaveHandlers.Fxsave<Pointers32, M>);
        t.Add(Code.Fxsave64_m512byte, null, &XsaveHandlers.Fxsave<Pointers64, M>);
        t.Add(Code.Fxrstor_m512byte, null, &XsaveHandlers.Fxrstor<Pointers32, M>);
        t.Add(Code.Fxrstor64_m512byte, null, &XsaveHandlers.Fxrstor<Pointers64, M>);
        Save<Xsave, M>(t, Code.Xsave_mem, Code.Xsave64_mem);
        Save<Xsaveopt, M>(t, Code.Xsaveopt_mem, Code.Xsaveopt64_mem);
        Save<Xsavec, M>(t, Code.Xsavec_mem, Code.Xsavec64_mem);
        Save<Xsaves, M>(t, Code.Xsaves_mem, Code.Xsaves64_mem);
        Restore<Xrstor, M>(t, Code.Xrstor_mem, Code.Xrstor64_mem);
        Restore<Xrstors, M>(t, Code.Xrstors_mem, Code.Xrstors64_mem);
        t.Add(Code.Xgetbv, &XsaveHandlers.GetControl);
    }

    private static void Save<K, M>(HandlerTable t, Code narrow, Code wide) where K : struct, ISaveKind where M : struct, IAddressing
    {
        t.Add(narrow, null, &XsaveHandlers.Save<K, Pointers32, M>);
        t.Add(wide, null, &XsaveHandlers.Save<K, Pointers64, M>);
    }

    private static void Restore<K, M>(HandlerTable t, Code narrow, Code wide) where K : struct, IRestoreKind where M : struct, IAddressing
    {
        t.Add(narrow, null, &XsaveHandlers.Restore<K, Pointers32, M>);
        t.Add(wide, null, &XsaveHandlers.Restore<K, Pointers64, M>);
    }
}
