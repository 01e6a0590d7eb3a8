using Grpc.Core;
using Vmm.V1;

namespace Vmm.Frontend.Access;

/// <summary>Who calls.</summary>
/// <param name="Token">His token's name; empty where calls need none.</param>
/// <param name="Project">The one project that he may see; null for all.</param>
/// <param name="Role">What he may do.</param>
public sealed record Caller(string Token, string? Project, Role Role)
{
    /// <summary>Whoever reaches a server that asks for no tokens.</summary>
    public static Caller Anyone { get; } = new("", null, Role.Admin);

    /// <summary>Whether he may see what is in a project.</summary>
    public bool Sees(string project) => Project is null || Project == project;
}

/// <summary>What is known of a call while it is under way.</summary>
internal sealed class CallState
{
    private const string Key = "vmm.frontend.call";

    /// <summary>Who calls; null until that is known.</summary>
    public Caller? Caller { get; set; }

    /// <summary>What the call is about: the resource that was authorised last.</summary>
    public string Resource { get; set; } = "";

    /// <summary>Whether the resource is none of the caller's business.</summary>
    public bool IsRefused { get; set; }

    /// <summary>Whether it is a stream.</summary>
    public bool IsStream { get; set; }

    /// <summary>Names a stream in the audit log; empty until that has the entry of its begin.</summary>
    public string Stream { get; set; } = "";

    /// <summary>Notes in the audit log that a stream begins; null where its end is not noted either.</summary>
    public Func<Task>? NoteBegin { get; set; }

    /// <summary>Gives back the place among the project's streams.</summary>
    public Action? LeaveStreams { get; set; }

    /// <summary>That of a call.</summary>
    public static CallState Of(ServerCallContext context)
    {
        if (!context.UserState.TryGetValue(Key, out object? state))
            context.UserState[Key] = state = new CallState();
        return (CallState)state;
    }
}
