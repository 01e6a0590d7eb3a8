using System.Collections.Frozen;
using Vmm.V1;

namespace Vmm.Frontend.Access;

/// <summary>What a method takes.</summary>
/// <param name="Role">The least role that its caller must have.</param>
/// <param name="Changes">Whether it is there to change something; then what became of it is in the audit log.</param>
/// <param name="OfFleet">Whether it is about what belongs to no project, which a token of one project does not allow.</param>
public sealed record MethodRule(Role Role, bool Changes, bool OfFleet = false)
{
    private static readonly MethodRule See = new(Role.Viewer, false);
    private static readonly MethodRule LookInside = new(Role.Operator, false);
    private static readonly MethodRule Operate = new(Role.Operator, true);
    private static readonly MethodRule OperateFleet = new(Role.Operator, true, OfFleet: true);
    private static readonly MethodRule Administer = new(Role.Admin, true);
    private static readonly MethodRule AdministerFleet = new(Role.Admin, true, OfFleet: true);

    /// <summary>Every method of the public API, by its full name.</summary>
    public static FrozenDictionary<string, MethodRule> All { get; } = new Dictionary<string, MethodRule>(StringComparer.Ordinal)
    {
        ["/vmm.v1.VmService/CreateVm"] = Operate,
        ["/vmm.v1.VmService/GetVm"] = See,
        ["/vmm.v1.VmService/ListVms"] = See,
        ["/vmm.v1.VmService/UpdateVm"] = Operate,
        ["/vmm.v1.VmService/DeleteVm"] = Operate,
        ["/vmm.v1.VmService/StartVm"] = Operate,
        ["/vmm.v1.VmService/StopVm"] = Operate,
        ["/vmm.v1.VmService/PauseVm"] = Operate,
        ["/vmm.v1.VmService/ResumeVm"] = Operate,
        ["/vmm.v1.VmService/ResetVm"] = Operate,
        ["/vmm.v1.VmService/InjectNmi"] = Operate,
        ["/vmm.v1.VmService/AddVcpu"] = Operate,
        ["/vmm.v1.VmService/CloneVm"] = Operate,
        // Which workers there are is no project's business.
        ["/vmm.v1.VmService/MigrateVm"] = OperateFleet,
        ["/vmm.v1.VmService/WatchVms"] = See,
        ["/vmm.v1.VmService/Console"] = Operate,
        ["/vmm.v1.VmService/ReadMemory"] = LookInside,
        ["/vmm.v1.VmService/WriteMemory"] = Operate,
        ["/vmm.v1.VmService/GetRegisters"] = LookInside,
        ["/vmm.v1.VmService/SetApicvInhibit"] = Operate,
        ["/vmm.v1.VmService/ClearApicvInhibit"] = Operate,
        ["/vmm.v1.VmService/GetApicv"] = See,
        ["/vmm.v1.VmService/WatchApicv"] = See,
        ["/vmm.v1.VmService/GetVcpuNested"] = LookInside,
        ["/vmm.v1.VmService/ReadVmcs"] = LookInside,
        ["/vmm.v1.VmService/GetNestedState"] = LookInside,
        ["/vmm.v1.VmService/SetNestedState"] = Operate,
        ["/vmm.v1.VmService/DecodeNestedState"] = See,
        ["/vmm.v1.VmService/TraceExits"] = LookInside,
        ["/vmm.v1.VmService/TraceVm"] = LookInside,
        ["/vmm.v1.ImageService/UploadImage"] = Operate,
        ["/vmm.v1.ImageService/QueryImageUpload"] = See,
        ["/vmm.v1.ImageService/GetImage"] = See,
        ["/vmm.v1.ImageService/ListImages"] = See,
        ["/vmm.v1.ImageService/DeleteImage"] = Operate,
        ["/vmm.v1.SnapshotService/CreateSnapshot"] = Operate,
        ["/vmm.v1.SnapshotService/GetSnapshot"] = See,
        ["/vmm.v1.SnapshotService/ListSnapshots"] = See,
        ["/vmm.v1.SnapshotService/DeleteSnapshot"] = Operate,
        ["/vmm.v1.SnapshotService/RestoreSnapshot"] = Operate,
        ["/vmm.v1.WorkerService/GetWorker"] = new(Role.Viewer, false, OfFleet: true),
        ["/vmm.v1.WorkerService/ListWorkers"] = new(Role.Viewer, false, OfFleet: true),
        ["/vmm.v1.WorkerService/CordonWorker"] = OperateFleet,
        ["/vmm.v1.WorkerService/UncordonWorker"] = OperateFleet,
        ["/vmm.v1.WorkerService/DrainWorker"] = OperateFleet,
        ["/vmm.v1.WorkerService/GetWorkerDrain"] = new(Role.Operator, false, OfFleet: true),
        ["/vmm.v1.ProjectService/CreateProject"] = AdministerFleet,
        ["/vmm.v1.ProjectService/GetProject"] = See,
        ["/vmm.v1.ProjectService/ListProjects"] = See,
        ["/vmm.v1.ProjectService/UpdateProject"] = AdministerFleet,
        ["/vmm.v1.ProjectService/DeleteProject"] = AdministerFleet,
        ["/vmm.v1.TokenService/CreateToken"] = Administer,
        ["/vmm.v1.TokenService/GetToken"] = new(Role.Admin, false),
        ["/vmm.v1.TokenService/ListTokens"] = new(Role.Admin, false),
        ["/vmm.v1.TokenService/DeleteToken"] = Administer,
        ["/vmm.v1.AuditService/ListAuditEntries"] = new(Role.Admin, false),
    }.ToFrozenDictionary(StringComparer.Ordinal);
}
