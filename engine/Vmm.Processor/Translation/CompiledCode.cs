using System.Reflection.Emit;
using System.Runtime.CompilerServices;

namespace Vmm.Processor.Translation;

/// <summary>The compiled code of one region. It can be called for as long as this object is reachable.</summary>
internal sealed unsafe class CompiledCode
{
    private readonly DynamicMethod _method;

    /// <summary>Compiles a method that has the signature of a handler.</summary>
    /// <param name="method">The method, with its code.</param>
    /// <param name="size">Bytes of its intermediate code.</param>
    public CompiledCode(DynamicMethod method, int size)
    {
        _method = method;
        Size = size;
        RuntimeMethodHandle handle = GetMethodDescriptor(_method);
        RuntimeHelpers.PrepareMethod(handle);
        Entry = (Handler)handle.GetFunctionPointer();
    }

    /// <summary>Where to call it.</summary>
    public Handler Entry { get; }

    /// <summary>Bytes of its intermediate code.</summary>
    public int Size { get; }

    // A delegate would cost a call of its own on every entry; there is no public way from a DynamicMethod to a function pointer.
    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "GetMethodDescriptor")]
    private static extern RuntimeMethodHandle GetMethodDescriptor(DynamicMethod method);
}
