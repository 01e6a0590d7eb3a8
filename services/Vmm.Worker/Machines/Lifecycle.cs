using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Worker.Machines;

/// <summary>What can be done to a VM, or happen to it.</summary>
internal enum VmAction
{
    /// <summary>StartVm.</summary>
    Start,
    /// <summary>The machine was made and executes.</summary>
    Started,
    /// <summary>The machine was made from a snapshot, and stays paused.</summary>
    StartedPaused,
    /// <summary>StopVm.</summary>
    Stop,
    /// <summary>PauseVm.</summary>
    Pause,
    /// <summary>ResumeVm.</summary>
    Resume,
    /// <summary>ResetVm.</summary>
    Reset,
    /// <summary>InjectNmi.</summary>
    InjectNmi,
    /// <summary>AddVcpu.</summary>
    AddVcpu,
    /// <summary>ReadMemory, WriteMemory, GetRegisters.</summary>
    Inspect,
    /// <summary>CreateSnapshot.</summary>
    Snapshot,
    /// <summary>SetNestedState.</summary>
    SetState,
    /// <summary>MigrateVm.</summary>
    Migrate,
    /// <summary>The machine ended, or could not be started.</summary>
    End,
    /// <summary>DeleteVm.</summary>
    Delete,
}

/// <summary>The life of a VM.</summary>
internal static class Lifecycle
{
    /// <summary>The state after an action, or null where the action is not legal in that state. This is the whole of the rules.</summary>
    public static VmState? Next(VmState state, VmAction action) => (state, action) switch
    {
        (VmState.Stopped, VmAction.Start) => VmState.Starting,
        (VmState.Stopped, VmAction.Delete or VmAction.Migrate) => VmState.Stopped,

        (VmState.Starting, VmAction.Started) => VmState.Running,
        (VmState.Starting, VmAction.StartedPaused) => VmState.Paused,
        (VmState.Starting, VmAction.End) => VmState.Stopped,

        (VmState.Running, VmAction.Pause) => VmState.Paused,
        (VmState.Running, VmAction.Stop) => VmState.Stopping,
        (VmState.Running, VmAction.Reset or VmAction.InjectNmi or VmAction.AddVcpu or VmAction.Inspect or VmAction.Snapshot or VmAction.Migrate) => VmState.Running,
        (VmState.Running, VmAction.End) => VmState.Stopped,

        (VmState.Paused, VmAction.Resume) => VmState.Running,
        (VmState.Paused, VmAction.Stop) => VmState.Stopping,
        (VmState.Paused, VmAction.Reset or VmAction.InjectNmi or VmAction.AddVcpu or VmAction.Inspect or VmAction.Snapshot or VmAction.SetState or VmAction.Migrate) => VmState.Paused,
        (VmState.Paused, VmAction.End) => VmState.Stopped,

        (VmState.Stopping, VmAction.Stop or VmAction.InjectNmi or VmAction.Inspect) => VmState.Stopping,
        (VmState.Stopping, VmAction.End) => VmState.Stopped,

        _ => null,
    };

    /// <summary>As <see cref="Next"/>.</summary>
    /// <exception cref="Grpc.Core.RpcException">FAILED_PRECONDITION, reason ILLEGAL_STATE, where the action is not legal.</exception>
    public static VmState Require(string vm, VmState state, VmAction action) => Next(state, action) ?? throw ApiError.FailedPrecondition(
        "ILLEGAL_STATE",
        "STATE",
        vm,
        $"{Verb(action)} {vm} is not possible while it is {Name(state)}; it must be {string.Join(" or ", LegalFrom(action).Select(Name))}.",
        ("state", Name(state)));

    /// <summary>The states in which an action is legal.</summary>
    public static IEnumerable<VmState> LegalFrom(VmAction action) => Enum.GetValues<VmState>().Where(state => Next(state, action) is not null);

    private static string Name(VmState state) => state.ToString().ToUpperInvariant();

    private static string Verb(VmAction action) => action switch
    {
        VmAction.Stop => "Stopping",
        VmAction.Reset => "Resetting",
        VmAction.InjectNmi => "Interrupting",
        VmAction.AddVcpu => "Adding a vCPU to",
        VmAction.Inspect => "Looking into",
        VmAction.SetState => "Setting the state of",
        VmAction.Pause => "Pausing",
        VmAction.Resume => "Resuming",
        VmAction.Delete => "Deleting",
        VmAction.Migrate => "Moving",
        VmAction.Snapshot => "Taking a snapshot of",
        _ => "Starting",
    };
}
