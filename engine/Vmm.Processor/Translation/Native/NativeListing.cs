using System.Globalization;
using System.Text;
using Iced.Intel;

namespace Vmm.Processor.Translation.Native;

/// <summary>Native code as text, for people, with the guest's instructions that it stands for.</summary>
internal static class NativeListing
{
    /// <summary>Its instructions, at the host's addresses.</summary>
    public static string Of(NativeCode code, NativeCodeSpace space)
    {
        var text = new StringBuilder();
        var formatter = new NasmFormatter(new Names(space));
        var line = new StringOutput();
        var decoder = Iced.Intel.Decoder.Create(64, new ByteArrayCodeReader(code.Bytes), (ulong)code.Entry, DecoderOptions.None);
        int piece = 0;
        while (decoder.IP < (ulong)(code.Entry + code.Bytes.Length))
        {
            int position = (int)(decoder.IP - (ulong)code.Entry);
            for (; piece < code.Pieces.Length && code.Pieces[piece].Position <= position; piece++)
            {
                // What comes out of line for an instruction that needs nothing there is empty.
                if (piece + 1 == code.Pieces.Length || code.Pieces[piece + 1].Position > position)
                    text.Append(CultureInfo.InvariantCulture, $"    ; {RegionListing.Of(code.Pieces[piece].Node, code.Pieces[piece].Instruction)}\n");
            }
            decoder.Decode(out Instruction instruction);
            formatter.Format(instruction, line);
            text.Append(CultureInfo.InvariantCulture, $"      {instruction.IP:x}  {line.ToStringAndReset()}\n");
        }
        return text.ToString();
    }

    /// <summary>The fields of the state, which RBX points to, and the code that all traces share.</summary>
    private sealed class Names(NativeCodeSpace space) : ISymbolResolver
    {
        public bool TryGetSymbol(in Instruction instruction, int operand, int instructionOperand, ulong address, int addressSize, out SymbolResult symbol)
        {
            string? name = instruction.MemoryBase == Register.RBX && instruction.GetOpKind(instructionOperand) == OpKind.Memory
                ? NativeLayout.NameOf((int)address)
                : space.NameOf((nint)address);
            symbol = name == null ? default : new SymbolResult(address, name);
            return name != null;
        }
    }
}
