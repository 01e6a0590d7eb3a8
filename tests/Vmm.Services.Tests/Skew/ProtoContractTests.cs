using Google.Protobuf.Reflection;
using Vmm.Testing;
using Xunit;

namespace Vmm.Services.Tests.Skew;

/// <summary>
/// What this version says is understood by the minor version before it, and the other way round: whatever <c>protos-before.txt</c> has is still
/// there, unchanged. The file is made anew in the commit that raises the minor version; <see cref="RenewVariable"/> has it written.
/// </summary>
public sealed class ProtoContractTests
{
    private const string RenewVariable = "VMM_RENEW_PROTO_RECORD";
    private const string Howto = $"""
        Front ends, workers and files of neighbouring minor versions work together (deploy/README.md), so the protos only grow: add a field, method or value
        under a number that was never used, and leave what there is. At a release, in the commit that raises the minor version in Directory.Build.props and
        before any change of protos, run this test once with {RenewVariable}=1, and check the file in.
        """;

    private static string RecordPath => Path.Combine(Repository.Root, "tests/Vmm.Services.Tests/Skew/protos-before.txt");

    private static Version Program { get; } = typeof(Vmm.V1.Vm).Assembly.GetName().Version!;

    internal static ProtoRecord Before => ProtoRecord.Parse(File.ReadAllText(RecordPath));

    [Fact]
    public void Whatever_the_minor_version_before_says_is_still_understood()
    {
        ProtoRecord present = ProtoRecord.Of($"{Program.Major}.{Program.Minor}", ProtoRecord.Present());
        if (Environment.GetEnvironmentVariable(RenewVariable) == "1")
            // Raised already, and the protos still those of the version before.
            File.WriteAllText(RecordPath, ProtoRecord.Of($"{Program.Major}.{Program.Minor - 1}", ProtoRecord.Present()).ToString());
        ProtoRecord before = Before;
        Assert.True(before.Version == $"{Program.Major}.{Program.Minor - 1}", $"The record is of {before.Version}, and the version before {present.Version} is another.\n{Howto}");
        IReadOnlyList<string> broken = before.BrokenBy(present);
        Assert.True(broken.Count == 0, $"{string.Join('\n', broken)}\n{Howto}");
        Assert.Equal(before.ToString(), ProtoRecord.Parse(before.ToString()).ToString());
    }

    [Fact]
    public void Every_change_that_breaks_is_found_and_nothing_else_is()
    {
        const string name = "vmm.v1.VmSpec";
        ProtoRecord before = Changed(Spec: spec => spec.ReservedRange.Add(new DescriptorProto.Types.ReservedRange { Start = 900, End = 902 }), File: Reserve);
        Expect([], static _ => { });
        Expect([], static spec => spec.Field.Add(Field("added", 1000)));
        Expect([], File: static file => file.MessageType.Add(new DescriptorProto { Name = "Added" }));
        Expect([], File: static file => Policy(file).Value.Add(new EnumValueDescriptorProto { Name = "ADDED", Number = 99 }));
        Expect([], Service: static service => service.Method.Add(new MethodDescriptorProto { Name = "Added", InputType = ".vmm.v1.Vm", OutputType = ".vmm.v1.Vm" }));

        Expect([$"message {name}: field 2 cpus int32 is gone"], static spec => spec.Field.Remove(Cpus(spec)));
        Expect([$"message {name}: field 2 cpus int32 is gone"], static spec => Cpus(spec).Number = 1000);
        Expect([$"message {name}: field 2 was cpus int32 and is vcpus int32"], static spec => Cpus(spec).Name = "vcpus");
        Expect([$"message {name}: field 2 was cpus int32 and is cpus string"], static spec => Cpus(spec).Type = FieldDescriptorProto.Types.Type.String);
        Expect([$"message {name}: field 2 was cpus int32 and is cpus repeated int32"], static spec => Cpus(spec).Label = FieldDescriptorProto.Types.Label.Repeated);
        Expect([$"message {name}: field 2 was cpus int32 and is cpus optional int32"], static spec => Cpus(spec).Proto3Optional = true);
        Expect([$"message {name}: field 2 was cpus int32 and is cpus int32 oneof=choice"], static spec =>
        {
            spec.OneofDecl.Add(new OneofDescriptorProto { Name = "choice" });
            Cpus(spec).OneofIndex = spec.OneofDecl.Count - 1;
        });
        Expect([$"message {name}: field 901 again int32 uses what was reserved"], static spec => spec.Field.Add(Field("again", 901)));
        Expect([$"message {name}: field 1000 former int32 uses what was reserved"], static spec => spec.Field.Add(Field("former", 1000)));
        Expect([$"message {name}: reserved 901  is gone"], static spec => spec.ReservedRange[^1].End = 901);
        Expect([$"message {name}: field 1000 added required int32 must be set"], static spec =>
        {
            FieldDescriptorProto added = Field("added", 1000);
            added.Label = FieldDescriptorProto.Types.Label.Required;
            spec.Field.Add(added);
        });
        Expect(["enum vmm.v1.RestartPolicy: value 1 RESTART_POLICY_NEVER is gone"], File: static file => Policy(file).Value.RemoveAt(1));
        Expect(["enum vmm.v1.RestartPolicy: value 1 was RESTART_POLICY_NEVER and is OTHER"], File: static file => Policy(file).Value[1].Name = "OTHER");
        Expect(["service vmm.v1.VmService: method GetVm vmm.v1.GetVmRequest -> vmm.v1.Vm is gone"], Service: static service => service.Method.Remove(Get(service)));
        Expect(
            ["service vmm.v1.VmService: method GetVm was vmm.v1.GetVmRequest -> vmm.v1.Vm and is vmm.v1.GetVmRequest -> stream vmm.v1.Vm"],
            Service: static service => Get(service).ServerStreaming = true);
        Expect(
            ["service vmm.v1.VmService: method GetVm was vmm.v1.GetVmRequest -> vmm.v1.Vm and is vmm.v1.Vm -> vmm.v1.Vm"],
            Service: static service => Get(service).InputType = ".vmm.v1.Vm");
        Expect(["message vmm.v1.PlacementSpec is gone", "enum vmm.v1.PlacementSpec.Strategy is gone"], File: static file => file.MessageType.Remove(file.MessageType.Single(message => message.Name == "PlacementSpec")));

        void Expect(string[] findings, Action<DescriptorProto>? Spec = null, Action<FileDescriptorProto>? File = null, Action<ServiceDescriptorProto>? Service = null)
        {
            ProtoRecord later = Changed(
                spec =>
                {
                    spec.ReservedRange.Add(new DescriptorProto.Types.ReservedRange { Start = 900, End = 902 });
                    Spec?.Invoke(spec);
                },
                file =>
                {
                    Reserve(file);
                    File?.Invoke(file);
                },
                Service);
            // Maps go with the message that they are in.
            Assert.Equal(findings.Order(StringComparer.Ordinal), before.BrokenBy(later).Where(finding => !finding.Contains("Entry is gone", StringComparison.Ordinal)).Order(StringComparer.Ordinal));
        }

        static void Reserve(FileDescriptorProto file) => file.MessageType.SingleOrDefault(message => message.Name == "VmSpec")?.ReservedName.Add("former");
        static FieldDescriptorProto Cpus(DescriptorProto spec) => spec.Field.Single(field => field.Name == "cpus");
        static EnumDescriptorProto Policy(FileDescriptorProto file) => file.EnumType.Single(type => type.Name == "RestartPolicy");
        static MethodDescriptorProto Get(ServiceDescriptorProto service) => service.Method.Single(method => method.Name == "GetVm");
        static FieldDescriptorProto Field(string name, int number) => new()
        {
            Name = name,
            Number = number,
            Type = FieldDescriptorProto.Types.Type.Int32,
            Label = FieldDescriptorProto.Types.Label.Optional,
        };
    }

    /// <summary>The present protos, changed: the message VmSpec, its file, VmService.</summary>
    private static ProtoRecord Changed(Action<DescriptorProto>? Spec = null, Action<FileDescriptorProto>? File = null, Action<ServiceDescriptorProto>? Service = null)
    {
        IReadOnlyList<FileDescriptorProto> files = [.. ProtoRecord.Present().Select(file => file.Clone())];
        FileDescriptorProto vm = files.Single(file => file.MessageType.Any(message => message.Name == "VmSpec"));
        Spec?.Invoke(vm.MessageType.Single(message => message.Name == "VmSpec"));
        File?.Invoke(vm);
        Service?.Invoke(files.SelectMany(file => file.Service).Single(service => service.Name == "VmService"));
        return ProtoRecord.Of("1.0", files);
    }
}
