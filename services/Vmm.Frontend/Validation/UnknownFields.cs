using Google.Protobuf;
using Google.Protobuf.Reflection;
using Vmm.V1;

namespace Vmm.Frontend.Validation;

/// <summary>Finds what a client sent and this server has no name for.</summary>
internal static class UnknownFields
{
    /// <summary>
    /// The path of the first unknown field, such as <c>vm.spec.#17</c>, or null. The runtime keeps such fields but does not show
    /// them; they reappear in the message's bytes, which are walked here along the descriptors. A VM's status asks for nothing: what a
    /// worker of a later version says there of a VM that it moves here may be passed over.
    /// </summary>
    public static string? Find(IMessage message)
    {
        return Walk(message.ToByteString().CreateCodedInput(), message.Descriptor, "");
    }

    private static string? Walk(CodedInputStream input, MessageDescriptor type, string prefix)
    {
        uint tag;
        while ((tag = input.ReadTag()) != 0)
        {
            int number = WireFormat.GetTagFieldNumber(tag);
            FieldDescriptor? field = type.FindFieldByNumber(number);
            WireFormat.WireType wire = WireFormat.GetTagWireType(tag);
            if (field is null || !(wire == WireTypeOf(field) || (field.IsRepeated && wire == WireFormat.WireType.LengthDelimited)))
                return $"{prefix}{field?.Name ?? $"#{number}"}";
            if (field.FieldType == FieldType.Message && field.MessageType != VmStatus.Descriptor)
            {
                if (Walk(input.ReadBytes().CreateCodedInput(), field.MessageType, $"{prefix}{field.Name}.") is { } found)
                    return found;
            }
            else
            {
                input.SkipLastField();
            }
        }

        return null;
    }

    /// <summary>How a field's values travel; the parser takes the same number in another form for an unknown field, too.</summary>
    private static WireFormat.WireType WireTypeOf(FieldDescriptor field) => field.FieldType switch
    {
        FieldType.Message or FieldType.String or FieldType.Bytes => WireFormat.WireType.LengthDelimited,
        FieldType.Fixed64 or FieldType.SFixed64 or FieldType.Double => WireFormat.WireType.Fixed64,
        FieldType.Fixed32 or FieldType.SFixed32 or FieldType.Float => WireFormat.WireType.Fixed32,
        FieldType.Group => WireFormat.WireType.StartGroup,
        _ => WireFormat.WireType.Varint,
    };
}
