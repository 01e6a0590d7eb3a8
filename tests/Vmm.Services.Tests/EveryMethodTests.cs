using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Services.Tests;

/// <summary>
/// Every method of the API, found by its descriptor, called with arguments that are empty, oversized, extreme, contradictory
/// and random: whatever comes back is a status with a reason, and never UNKNOWN or INTERNAL.
/// </summary>
public sealed class EveryMethodTests(ITestOutputHelper output) : ServerTest
{
    private const int RandomRequests = 60;
    private static readonly string[] Strings =
    [
        "", "x", "projects/default", "projects/default/vms/one", "projects/default/vms/none", "projects/default/snapshots/one", "workers/local", "tokens/one", $"projects/default/images/sha256-{new string('0', 64)}", "projects//vms/", "../../etc/passwd",
        "\0", "\u202e\ud83d\ude00", "%n%s", new string('a', 70_000), new string('\u00e9', 5000), "state = RUNNING", "((((", "labels", "-1",
    ];

    public static TheoryData<string> Methods()
    {
        var names = new TheoryData<string>();
        foreach (MethodDescriptor method in PublicApi.Methods)
            names.Add(method.FullName);
        return names;
    }

    [Theory]
    [MemberData(nameof(Methods))]
    public async Task No_argument_leads_to_unknown_or_internal(string fullName)
    {
        const int seed = 20_260;
        output.WriteLine($"seed {seed}");
        MethodDescriptor method = PublicApi.Methods.Single(candidate => candidate.FullName == fullName);
        await StartAsync("one");
        await Connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "one", Snapshot = new Snapshot { Vm = "projects/default/vms/one" } });
        using GrpcChannel channel = GrpcChannel.ForAddress(Server.Address);
        CallInvoker invoker = channel.CreateCallInvoker();
        var random = new Random(seed);
        foreach (IMessage request in Systematic(method.InputType).Concat(Enumerable.Range(0, RandomRequests).Select(_ => Fill(method.InputType, random, 0))))
        {
            VmmError answer = await RawCall.SendAsync(invoker, method, request);
            Assert.True(
                answer.Code is not (StatusCode.Unknown or StatusCode.Internal or StatusCode.Unimplemented),
                $"{fullName} answers {answer} to {request.ToString()![..Math.Min(500, request.ToString()!.Length)]}");
        }

        // The server is as well as before.
        Assert.NotNull(await Vms.ListVmsAsync(new ListVmsRequest()));
    }

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
