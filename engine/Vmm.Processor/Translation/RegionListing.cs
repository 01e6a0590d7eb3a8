using System.Globalization;
using System.Text;
using Iced.Intel;
using Vmm.Processor.Translation.Native;

namespace Vmm.Processor.Translation;

/// <summary>A region as text, for people: the guest's code as it was compiled, and what it was compiled to.</summary>
internal static class RegionListing
{
    /// <summary>
    /// Its traces in the order in which they are compiled, and the host's instructions or the intermediate language. Addresses are
    /// guest-physical, but for those of the host. On the processors' thread, while the traces are there.
    /// </summary>
    /// <param name="region">The region, compiled.</param>
    /// <param name="space">Where native code is; null where there is none.</param>
    public static string Of(Region region, NativeCodeSpace? space)
    {
        var text = new StringBuilder();
        int instructions = region.Nodes.Sum(node => node.Length);
        string size = region.Native is { } native ? $"{native.Bytes.Length} bytes of native code" : $"{region.Code?.Size ?? 0} bytes of intermediate code";
        text.Append(CultureInfo.InvariantCulture, $"region at physical {region.Head.Physical:x}: {instructions} instructions in {region.Nodes.Length} traces, {size}\n");
        foreach (RegionNode node in region.Nodes)
        {
            text.Append(CultureInfo.InvariantCulture, $"  trace at {node.Physical:x}\n");
            for (int k = 0; k < node.Length; k++)
                text.Append(CultureInfo.InvariantCulture, $"    {Of(node, k, showBytes: true)}\n");
        }
        if (region.Native is { } code)
            text.Append("  native code\n").Append(NativeListing.Of(code, space!));
        else if (region.Code != null)
            text.Append("  intermediate code\n").Append(IlRegionCompiler.List(region));
        return text.ToString();
    }

    /// <summary>An instruction of a trace, with its address and perhaps its bytes; the end of a trace that was cut has no instruction.</summary>
    public static string Of(RegionNode node, int index, bool showBytes = false)
    {
        if (index >= node.Length)
            return $"the end of the trace at {node.Physical:x}";
        var line = new StringOutput();
        int start = (int)node.Decoded[index].IP;
        var decoder = Iced.Intel.Decoder.Create(64, new ByteArrayCodeReader(node.Bytes, start, node.Bytes.Length - start), node.Physical + (ulong)start, DecoderOptions.None);
        decoder.Decode(out Instruction instruction);
        new NasmFormatter().Format(instruction, line);
        string bytes = showBytes ? $"{Convert.ToHexStringLower(node.Bytes, start, Math.Min(instruction.Length, node.Bytes.Length - start)),-20} " : "";
        return $"{instruction.IP:x}  {bytes}{line.ToStringAndReset()}";
    }
}
