using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Vmm.Client;
using Vmm.Protos;
using Vmm.Server;
using Vmm.V1;

namespace Vmm.Services.Tests.Security;

/// <summary>A server whose calls need tokens.</summary>
public abstract class TokenTest : ServerTest
{
    private readonly List<VmmConnection> _connections = [];

    protected string AdminTokenFile => Path.Combine(Folder, "admin-token");

    protected VmmConnection Admin { get; private set; } = null!;

    protected override ServerOptions Options => base.Options with { RequireTokens = true, AdminTokenFile = AdminTokenFile };

    public override async Task InitializeAsync()
    {
        await base.InitializeAsync();
        Admin = As((await File.ReadAllTextAsync(AdminTokenFile)).Trim());
    }

    public override async Task DisposeAsync()
    {
        _connections.ForEach(connection => connection.Dispose());
        await base.DisposeAsync();
    }

    /// <summary>A connection with a token's secret.</summary>
    protected VmmConnection As(string? secret)
    {
        VmmConnection connection = VmmConnection.Open(Server.Address, new VmmCredentials { Token = secret });
        _connections.Add(connection);
        return connection;
    }

    /// <summary>Makes a token; gives its secret.</summary>
    protected async Task<string> TokenAsync(string id, Role role, string project = "") =>
        (await Admin.Tokens.CreateTokenAsync(new CreateTokenRequest { TokenId = id, Token = new Token { Role = role, Project = project } })).Secret;

    /// <summary>A connection with a new token.</summary>
    protected async Task<VmmConnection> NewAsync(string id, Role role, string project = "") => As(await TokenAsync(id, role, project));

    protected async Task<Project> ProjectAsync(string id, ProjectQuota? quota = null) =>
        await Admin.Projects.CreateProjectAsync(new CreateProjectRequest { ProjectId = id, Project = new Project { Quota = quota } });

    protected async Task<Vm> CreateInAsync(string project, string id, VmmConnection? connection = null, VmSpec? spec = null) =>
        await (connection ?? Admin).Vms.CreateVmAsync(new CreateVmRequest { Parent = project, VmId = id, Vm = new Vm { Spec = spec ?? Spec() } });

    /// <summary>A request that is as it should be, about what is called <paramref name="id"/> in a project.</summary>
    private protected IMessage RequestAbout(MethodDescriptor method, string project, string id) => Fill(method.InputType, method.Service.Name, project, id);

    private IMessage Fill(MessageDescriptor type, string service, string project, string id)
    {
        if (type == VmSpec.Descriptor)
            return Spec();
        IMessage message = type.Parser.ParseFrom([]);
        foreach (FieldDescriptor field in type.Fields.InDeclarationOrder())
        {
            if (field.IsMap || field.IsRepeated || field.RealContainingOneof is { } choice && choice.Fields[0] != field)
                continue;
            object? value = (field.FieldType, field.Name) switch
            {
                (FieldType.String, "name") => service switch
                {
                    "ImageService" => ResourceName.Image(project, new string('0', 64)),
                    "SnapshotService" => ResourceName.Snapshot(project, id),
                    "ProjectService" => project,
                    "TokenService" => $"tokens/{id}",
                    "WorkerService" => $"workers/{id}",
                    _ => ResourceName.Vm(project, id),
                },
                (FieldType.String, "parent" or "project") => project,
                (FieldType.String, "vm" or "apicv_vm") => ResourceName.Vm(project, id),
                (FieldType.String, "snapshot") => ResourceName.Snapshot(project, id),
                (FieldType.String, "sha256") => new string('0', 64),
                (FieldType.String, "project_id" or "token_id" or "vm_id" or "snapshot_id") => $"{id}-new",
                (FieldType.Int32 or FieldType.Int64, "length" or "size_bytes") => field.FieldType == FieldType.Int64 ? 1L : (object)1,
                (FieldType.Bytes, _) => ByteString.CopyFrom(1),
                (FieldType.Enum, _) => 1,
                (FieldType.Message, _) when field.MessageType.File.Package == "vmm.v1" => Fill(field.MessageType, service, project, id),
                _ => null,
            };
            if (value is not null)
                field.Accessor.SetValue(message, value);
        }

        return message;
    }

    private protected static Metadata Bearer(string secret) => new() { { "authorization", $"Bearer {secret}" } };
}
