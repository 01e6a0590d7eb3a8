using Google.Protobuf;
using Google.Protobuf.Reflection;

namespace Vmm.Services.Tests;

/// <summary>Requests that are empty, oversized, extreme, contradictory and random, made from what a message's descriptor says of it.</summary>
internal static class BadRequests
{
    private const int RandomRequests = 60;
    private static readonly string[] Strings =
    [
        "", "x", "projects/default", "projects/default/vms/one", "projects/default/vms/none", "projects/default/snapshots/one", "workers/local", "tokens/one", "projects/other/vms/one", "projects/other/snapshots/one", $"projects/default/images/sha256-{new string('0', 64)}", "projects//vms/", "../../etc/passwd",
        "\0", "\u202e\ud83d\ude00", "%n%s", new string('a', 70_000), new string('\u00e9', 5000), "state = RUNNING", "((((", "labels", "-1",
    ];

    /// <summary>Requests of a type, the systematic ones first.</summary>
    public static IEnumerable<IMessage> Of(MessageDescriptor type, Random random) => Systematic(type).Concat(Enumerable.Range(0, RandomRequests).Select(_ => Fill(type, random, 0)));

    /// <summary>As much of a request as a test says.</summary>
    public static string TextOf(IMessage request) => request.ToString()![..Math.Min(500, request.ToString()!.Length)];

    /// <summary>The empty message, then each field alone with each of its extremes.</summary>
    private static IEnumerable<IMessage> Systematic(MessageDescriptor type)
    {
        yield return type.Parser.ParseFrom([]);
        foreach (FieldDescriptor field in type.Fields.InDeclarationOrder())
        {
            if (field.IsMap || field.IsRepeated)
                continue;
            foreach (object value in Extremes(field))
            {
                IMessage message = type.Parser.ParseFrom([]);
                field.Accessor.SetValue(message, value);
                yield return message;
            }
        }
    }

    private static IEnumerable<object> Extremes(FieldDescriptor field) => field.FieldType switch
    {
        FieldType.String => Strings,
        FieldType.Bytes => [ByteString.Empty, ByteString.CopyFrom(new byte[3 << 20])],
        FieldType.Bool => [true],
        FieldType.Enum => [-1, 1, int.MaxValue],
        FieldType.Int32 => [int.MinValue, -1, 1, int.MaxValue],
        FieldType.Int64 => [long.MinValue, -1L, 1L, long.MaxValue],
        FieldType.UInt64 => [1UL, ulong.MaxValue],
        FieldType.Message => Systematic(field.MessageType),
        _ => [],
    };

    private static IMessage Fill(MessageDescriptor type, Random random, int depth)
    {
        IMessage message = type.Parser.ParseFrom([]);
        foreach (FieldDescriptor field in type.Fields.InDeclarationOrder())
        {
            if (depth > 4 || random.Next(3) == 0)
                continue;
            if (field.IsMap)
            {
                var map = (System.Collections.IDictionary)field.Accessor.GetValue(message);
                if (map is IDictionary<string, string>)
                    map[Strings[random.Next(Strings.Length)]] = Strings[random.Next(Strings.Length)];
            }
            else if (field.IsRepeated)
            {
                var list = (System.Collections.IList)field.Accessor.GetValue(message);
                for (int i = random.Next(40); i > 0; i--)
                    list.Add(Value(field, random, depth));
            }
            else
            {
                field.Accessor.SetValue(message, Value(field, random, depth));
            }
        }

        return message;
    }

    private static object Value(FieldDescriptor field, Random random, int depth)
    {
        if (field.FieldType == FieldType.Message)
            return Fill(field.MessageType, random, depth + 1);
        object[] values = [.. Extremes(field)];
        if (field is { FieldType: FieldType.String, Name: "name" or "parent" or "path" or "image" or "vm" } && random.Next(2) == 0)
            return Strings[2 + random.Next(5)];
        return values.Length > 0 ? values[random.Next(values.Length)] : field.FieldType switch
        {
            FieldType.Fixed64 => 1UL,
            FieldType.UInt32 => uint.MaxValue,
            _ => throw new InvalidOperationException($"{field.FullName} has a type that this test does not fill."),
        };
    }
}
