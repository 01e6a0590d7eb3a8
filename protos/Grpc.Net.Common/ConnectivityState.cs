namespace Grpc.Core;

/// <summary>What a channel's connection is doing (gRPC "Connectivity Semantics and API").</summary>
public enum ConnectivityState
{
    /// <summary>No connection, and none is being made.</summary>
    Idle,
    /// <summary>A connection is being made.</summary>
    Connecting,
    /// <summary>Calls can be sent.</summary>
    Ready,
    /// <summary>The last attempt failed and will be tried again.</summary>
    TransientFailure,
    /// <summary>The channel was shut down.</summary>
    Shutdown,
}
