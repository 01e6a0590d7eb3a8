using System.Globalization;
using System.Reflection;
using System.Reflection.Emit;
using System.Text;

namespace Vmm.Processor.Translation;

/// <summary>Intermediate language as text, for people, with the guest's instructions that it stands for (ECMA-335 partition III has the mnemonics).</summary>
internal sealed class IlListing
{
    private readonly StringBuilder _text = new();

    /// <summary>One instruction.</summary>
    public void Add(OpCode code, string operand = "") =>
        _text.Append(operand.Length == 0 ? $"      {code.Name}\n" : $"      {code.Name,-12} {operand}\n");

    /// <summary>An instruction with a method as its operand.</summary>
    public void Add(OpCode code, MethodInfo method) => Add(code, $"{method.DeclaringType!.Name}.{method.Name}{(method.IsGenericMethod ? $"<{method.GetGenericArguments()[0].Name}>" : "")}");

    /// <summary>A label, which branches name as <see cref="Of(CodeLabel)"/>.</summary>
    public void Mark(CodeLabel label) => _text.Append(CultureInfo.InvariantCulture, $"    {Of(label)}:\n");

    /// <summary>What follows stands for an instruction of the guest.</summary>
    public void Begin(string instruction) => _text.Append(CultureInfo.InvariantCulture, $"    ; {instruction}\n");

    public static string Of(CodeLabel label) => string.Create(CultureInfo.InvariantCulture, $"L{label.Number}");

    public static string Of(CodeLocal local) => string.Create(CultureInfo.InvariantCulture, $"V{local.Slot} ({local.Type})");

    public override string ToString() => _text.ToString();
}
