using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Decoding;

/// <summary>Decodes bytes into instructions, up to an unconditional transfer, the end of the page or the longest trace.</summary>
internal sealed unsafe class TraceBuilder
{
    /// <summary>Instructions in a trace at most.</summary>
    public const int LongestTrace = 32;

    private readonly ByteSource _source = new();
    private readonly Decoder[] _decoders;
    private readonly HandlerTable _long;
    private readonly HandlerTable _legacy;

    public TraceBuilder(ProcessorFeatures features)
    {
        DecoderOptions options = features.Bmi ? DecoderOptions.None : DecoderOptions.NoMPFX_0FBC | DecoderOptions.NoMPFX_0FBD;
        _decoders = [Decoder.Create(16, _source, options), Decoder.Create(32, _source, options), Decoder.Create(64, _source, options)];
        _long = InstructionSet.Build<Long>(features);
        _legacy = InstructionSet.Build<Legacy>(features);
    }

    /// <summary>
    /// Decodes from <paramref name="bytes"/> into <paramref name="into"/>, which has room for <see cref="LongestTrace"/> plus one.
    /// </summary>
    /// <param name="bytes">Code bytes.</param>
    /// <param name="available">How many there are.</param>
    /// <param name="mode">How to decode.</param>
    /// <param name="longest">Instructions at most.</param>
    /// <param name="into">Where to.</param>
    /// <param name="length">Bytes decoded.</param>
    /// <returns>Instructions decoded; 0 where the first one does not end within <paramref name="available"/>.</returns>
    public int Decode(byte* bytes, int available, TraceMode mode, int longest, Insn* into, out int length)
    {
        int size = (int)(mode & TraceMode.SizeMask);
        Decoder decoder = _decoders[size];
        HandlerTable table = size == 2 ? _long : _legacy;
        _source.Reset(bytes, available);
        decoder.IP = 0;
        int count = 0;
        length = 0;
        while (count < longest)
        {
            decoder.Decode(out Instruction instruction);
            if (decoder.LastError == DecoderError.NoMoreBytes && _source.Exhausted && available - length < 15)
                break;
            Insn* i = into + count;
            bool last;
            if (instruction.Code == Code.INVALID)
            {
                *i = default;
                i->Length = (byte)Math.Max(1, Math.Min(15, instruction.Length));
                i->Handler = instruction.Length >= 15 || decoder.LastError == DecoderError.NoMoreBytes ? &Binder.TooLong : &Binder.UndefinedOpcode;
                last = true;
            }
            else
            {
                last = Binder.Bind(instruction, mode, table, i);
            }
            i->Offset = (ushort)length;
            i->Count = (ushort)++count;
            length += i->Length;
            if (last)
                break;
        }
        if (count == 0)
            return 0;
        Insn* end = into + count;
        *end = default;
        end->Handler = &EndOfTrace;
        end->Offset = (ushort)length;
        end->Count = (ushort)count;
        return count;
    }

    /// <summary>Whether this is the pseudo instruction behind the last one of a trace.</summary>
    public static bool IsEnd(Insn* i) => i->Length == 0;

    private static Insn* EndOfTrace(CpuState* s, Insn* i) => Flow.To(s, i, Flow.Wrap(s, s->TraceRip + i->Offset));

    private sealed class ByteSource : CodeReader
    {
        private byte* _at;
        private byte* _end;

        public bool Exhausted => _at == _end;

        public void Reset(byte* bytes, int count)
        {
            _at = bytes;
            _end = bytes + count;
        }

        public override int ReadByte() => _at < _end ? *_at++ : -1;
    }
}
