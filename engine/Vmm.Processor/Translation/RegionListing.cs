using System.Globalization;
using System.Text;
using Iced.Intel;

namespace Vmm.Processor.Translation;

/// <summary>A region as text, for people: the guest's code as it was compiled.</summary>
internal static unsafe class RegionListing
{
    /// <summary>Its traces in the order in which they are compiled. Addresses are guest-physical. On the processors' thread, while the traces are there.</summary>
    public static string Of(Region region)
    {
        var text = new StringBuilder();
        ulong head = region.Head.Trace->Physical;
        int instructions = region.Nodes.Sum(node => node.Length);
        text.Append(CultureInfo.InvariantCulture, $"region at physical {head:x}: {instructions} instructions in {region.Nodes.Length} traces, {region.Code?.Size ?? 0} bytes of intermediate code\n");
        var formatter = new NasmFormatter();
        var line = new StringOutput();
        foreach (RegionNode node in region.Nodes)
        {
            ulong address = head + (ulong)(long)node.Offset;
            text.Append(CultureInfo.InvariantCulture, $"  trace at {address:x}\n");
            var decoder = Iced.Intel.Decoder.Create(64, new ByteArrayCodeReader(node.Bytes), address, DecoderOptions.None);
            for (int k = 0; k < node.Length; k++)
            {
                int start = (int)(decoder.IP - address);
                decoder.Decode(out Instruction instruction);
                formatter.Format(instruction, line);
                string bytes = Convert.ToHexStringLower(node.Bytes, start, Math.Min(instruction.Length, node.Bytes.Length - start));
                text.Append(CultureInfo.InvariantCulture, $"    {instruction.IP:x}  {bytes,-20} {line.ToStringAndReset()}\n");
            }
        }
        return text.ToString();
    }
}
