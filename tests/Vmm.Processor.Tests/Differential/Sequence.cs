using System.Text;
using Iced.Intel;
using Decoder = Iced.Intel.Decoder;
using Encoder = Iced.Intel.Encoder;

namespace Vmm.Processor.Tests.Differential;

/// <summary>One instruction of a sequence: built from operands, or as raw bytes.</summary>
internal sealed class Item
{
    public Instruction Instruction;

    /// <summary>The exact bytes, where they were drawn and not encoded.</summary>
    public byte[]? Raw { get; init; }

    /// <summary>Where a branch goes: always forward, to an instruction or (null) to the end, so that no sequence loops.</summary>
    public Item? Target { get; set; }

    /// <summary>Whether <see cref="Target"/> counts.</summary>
    public bool IsBranch { get; init; }
}

/// <summary>Instructions in order, ended by UD2, and their encoding at <see cref="Layout.Start"/>.</summary>
internal sealed class Sequence(int bitness)
{
    // Were a wild branch to land inside an instruction, these bytes would be a system call.
    private static readonly byte[][] Forbidden = [[0x0F, 0x05], [0x0F, 0x34], [0xCD, 0x80]];

    private readonly List<ulong> _addresses = [];
    private readonly List<RflagsBits> _undefined = [];

    /// <summary>64, or 32 or 16 for compatibility mode.</summary>
    public int Bitness { get; } = bitness;

    public List<Item> Items { get; } = [];

    public byte[] Bytes { get; private set; } = [];

    /// <summary>Every flag that is undefined anywhere.</summary>
    public RflagsBits AllUndefined { get; private set; }

    /// <summary>Encodes. False where some operand cannot be encoded or the bytes could make a system call.</summary>
    public bool Encode()
    {
        _addresses.Clear();
        if (!Pass() || !Pass())
            return false;
        foreach (byte[] pair in Forbidden)
        {
            if (Bytes.AsSpan().IndexOf(pair) >= 0)
                return false;
        }
        TrackUndefinedFlags();
        return true;
    }

    /// <summary>The index of the instruction at an address; the count for the final UD2; -1 for none.</summary>
    public int IndexOf(ulong rip) => _addresses.IndexOf(rip);

    /// <summary>The instruction at an address, or nothing (the final UD2, a wild branch).</summary>
    public Instruction At(ulong rip)
    {
        int index = IndexOf(rip);
        return index >= 0 && index < Items.Count ? Items[index].Instruction : default;
    }

    /// <summary>The address behind the instruction at an address, which is one of the sequence's.</summary>
    public ulong Behind(ulong rip) => _addresses[IndexOf(rip) + 1];

    /// <summary>The flags whose value is undefined before the instruction with an index.</summary>
    public RflagsBits UndefinedBefore(int index) => index < 0 ? AllUndefined : _undefined[index];

    /// <summary>A copy without one instruction; branches to it go to the one after.</summary>
    public Sequence Without(int index)
    {
        var copy = new Sequence(Bitness);
        var map = new Dictionary<Item, Item>();
        for (int k = Items.Count - 1; k >= 0; k--)
        {
            Item old = Items[k];
            if (k == index)
                continue;
            var item = new Item { Instruction = old.Instruction, Raw = old.Raw, IsBranch = old.IsBranch };
            if (old.Target != null)
            {
                Item? target = old.Target;
                if (target == Items[index])
                    target = index + 1 < Items.Count ? Items[index + 1] : null;
                item.Target = target == null ? null : map[target];
            }
            map[old] = item;
            copy.Items.Insert(0, item);
        }
        return copy;
    }

    public override string ToString()
    {
        var text = new StringBuilder();
        var formatter = new NasmFormatter();
        var output = new StringOutput();
        var decoder = Decoder.Create(Bitness, Bytes);
        decoder.IP = Layout.Start(Bitness);
        while (decoder.IP < Layout.Start(Bitness) + (ulong)Bytes.Length)
        {
            decoder.Decode(out Instruction instruction);
            formatter.Format(instruction, output);
            int at = (int)(instruction.IP - Layout.Start(Bitness));
            text.AppendLine($"  {instruction.IP:x8}  {Convert.ToHexString(Bytes.AsSpan(at, instruction.Length)),-30} {output.ToStringAndReset()}   ; {instruction.Code}");
        }
        return text.ToString();
    }

    private bool Pass()
    {
        using var stream = new MemoryStream();
        var encoder = Encoder.Create(Bitness, new StreamCodeWriter(stream));
        var addresses = new List<ulong>();
        foreach (Item item in Items)
        {
            ulong rip = Layout.Start(Bitness) + (ulong)stream.Length;
            addresses.Add(rip);
            if (item.Raw != null)
            {
                stream.Write(item.Raw);
                continue;
            }
            if (item.IsBranch)
            {
                // The first pass, for the lengths, has no addresses yet.
                int target = item.Target == null ? Items.Count : Items.IndexOf(item.Target);
                item.Instruction.NearBranch64 = _addresses.Count > 0 ? _addresses[target] : rip + 16;
                if (item.Instruction.Op0Kind == OpKind.NearBranch16)
                    item.Instruction.NearBranch64 &= 0xFFFF;
            }
            if (!encoder.TryEncode(item.Instruction, rip, out _, out _))
                return false;
        }
        addresses.Add(Layout.Start(Bitness) + (ulong)stream.Length);
        stream.Write([0x0F, 0x0B]);
        _addresses.Clear();
        _addresses.AddRange(addresses);
        Bytes = stream.ToArray();
        return Bytes.Length <= 2048;
    }

    private void TrackUndefinedFlags()
    {
        _undefined.Clear();
        AllUndefined = RflagsBits.None;
        var arriving = new Dictionary<Item, RflagsBits>();
        RflagsBits atEnd = RflagsBits.None;
        RflagsBits now = RflagsBits.None;
        foreach (Item item in Items)
        {
            if (arriving.TryGetValue(item, out RflagsBits other))
                now |= other;
            _undefined.Add(now);
            now = FlagRules.After(item.Instruction, now);
            AllUndefined |= now;
            if (!item.IsBranch)
                continue;
            if (item.Target == null)
                atEnd |= now;
            else
                arriving[item.Target] = arriving.GetValueOrDefault(item.Target) | now;
        }
        _undefined.Add(now | atEnd);
    }
}
