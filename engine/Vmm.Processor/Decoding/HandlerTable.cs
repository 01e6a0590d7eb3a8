using Iced.Intel;
using Vmm.Processor.Instructions.Sse;

namespace Vmm.Processor.Decoding;

/// <summary>
/// The instruction set of one addressing mode: for each of Iced's codes the handler for its register form and the one for its
/// memory form. Filled once by the tables under <c>Instructions</c>; what has no entry is an undefined opcode.
/// </summary>
public sealed unsafe class HandlerTable
{
    private readonly Handler[] _register = new Handler[IcedConstants.CodeEnumCount];
    private readonly Handler[] _memory = new Handler[IcedConstants.CodeEnumCount];
    private readonly Dictionary<Code, SseForm> _forms = [];
    private readonly bool[] _endsTrace = new bool[IcedConstants.CodeEnumCount];

    /// <summary>Adds an instruction without a memory operand, or with the same handler for both forms.</summary>
    public void Add(Code code, Handler handler) => Add(code, handler, handler);

    /// <summary>Adds an instruction with its register and memory forms; null where a form does not exist.</summary>
    public void Add(Code code, Handler register, Handler memory)
    {
        if (_register[(int)code] != null || _memory[(int)code] != null)
            throw new InvalidOperationException($"{code} has a handler already.");
        _register[(int)code] = register;
        _memory[(int)code] = memory;
    }

    /// <summary>
    /// Adds an instruction after which the trace must end because it leaves through <see cref="Execution.Flow.Leave"/> or
    /// otherwise never returns the following instruction. (Branches, calls and returns end traces by themselves.)
    /// </summary>
    public void AddLast(Code code, Handler register, Handler memory)
    {
        Add(code, register, memory);
        _endsTrace[(int)code] = true;
    }

    /// <inheritdoc cref="AddLast(Code, Handler, Handler)"/>
    public void AddLast(Code code, Handler handler) => AddLast(code, handler, handler);

    /// <summary>The handler for a decoded instruction, or null where it is undefined.</summary>
    public Handler Find(Code code, bool memory) => memory ? _memory[(int)code] : _register[(int)code];

    /// <summary>Adds what compiled code calls for an instruction.</summary>
    internal void Describe(Code code, SseForm form) => _forms.Add(code, form);

    /// <summary>What compiled code can call for an instruction, or null.</summary>
    internal SseForm? FormOf(Code code) => _forms.GetValueOrDefault(code);

    /// <summary>Whether the trace must end after this instruction.</summary>
    public bool EndsTrace(Code code) => _endsTrace[(int)code];
}

internal static class IcedConstants
{
    public static readonly int CodeEnumCount = Enum.GetValues<Code>().Length;
    public static readonly int RegisterEnumCount = Enum.GetValues<Register>().Length;
}
