using Google.Protobuf;
using Google.Protobuf.Reflection;
using Vmm.V1;

namespace Vmm.Services.Tests.Skew;

/// <summary>Goes through a message's bytes, leaves out fields that are not known, and adds one that nobody knows.</summary>
/// <param name="typeOf">The message type of a field of a message type: empty where it is none, null where there is no such field.</param>
/// <param name="unknown">Hears of fields that are left out, and whether they are in a VM's status.</param>
/// <param name="extends">Messages of which types get a field; null for none.</param>
internal sealed class WireRewriter(Func<string, int, string?> typeOf, Action<string, bool> unknown, Predicate<string>? extends = null)
{
    private const string Ours = "vmm.";
    private const int NobodysField = 19_000 - 1;

    /// <summary>Fields that were added so far.</summary>
    public int Added { get; private set; }

    /// <summary>The message type of a field of one of the types that a message is made of, as this version has them.</summary>
    public static string? FieldOf(MessageDescriptor root, string type, int field) =>
        Find(root, type, []) is { } found && found.FindFieldByNumber(field) is { } known ? known.FieldType == FieldType.Message ? known.MessageType.FullName : "" : null;

    public ByteString Rewrite(ByteString bytes, string type) => Rewrite(bytes, type, isStatus: false);

    private ByteString Rewrite(ByteString bytes, string type, bool isStatus)
    {
        isStatus |= type == VmStatus.Descriptor.FullName;
        using var rewritten = new MemoryStream();
        var output = new CodedOutputStream(rewritten);
        CodedInputStream input = bytes.CreateCodedInput();
        uint tag;
        while ((tag = input.ReadTag()) != 0)
        {
            int field = WireFormat.GetTagFieldNumber(tag);
            string? inner = typeOf(type, field);
            if (inner is null && type.StartsWith(Ours, StringComparison.Ordinal))
            {
                unknown($"{type}.#{field}", isStatus);
                input.SkipLastField();
                continue;
            }

            output.WriteTag(tag);
            switch (WireFormat.GetTagWireType(tag))
            {
                case WireFormat.WireType.Varint:
                    output.WriteUInt64(input.ReadUInt64());
                    break;
                case WireFormat.WireType.Fixed32:
                    output.WriteFixed32(input.ReadFixed32());
                    break;
                case WireFormat.WireType.Fixed64:
                    output.WriteFixed64(input.ReadFixed64());
                    break;
                case WireFormat.WireType.LengthDelimited:
                    ByteString content = input.ReadBytes();
                    output.WriteBytes(inner is { Length: > 0 } ? Rewrite(content, inner, isStatus) : content);
                    break;
                default:
                    throw new NotSupportedException($"{type}.#{field} is a group.");
            }
        }

        if (type.StartsWith(Ours, StringComparison.Ordinal) && extends?.Invoke(type) == true)
        {
            output.WriteTag(NobodysField, WireFormat.WireType.Varint);
            output.WriteUInt64(1);
            Added++;
        }

        output.Flush();
        return ByteString.CopyFrom(rewritten.ToArray());
    }

    private static MessageDescriptor? Find(MessageDescriptor at, string type, HashSet<string> seen)
    {
        if (at.FullName == type)
            return at;
        return !seen.Add(at.FullName) ? null : at.Fields.InFieldNumberOrder().Where(field => field.FieldType == FieldType.Message).Select(field => Find(field.MessageType, type, seen)).FirstOrDefault(found => found is not null);
    }
}
