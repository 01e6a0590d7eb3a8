using System.Globalization;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Net.Client;
using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.Registry.Postgres;
using Vmm.Worker.V1;

namespace Vmm.Services.Tests.Fleet;

/// <summary>
/// Where a move may be held up in the process of its source, in the order in which they come. A test names one in a file, and the process that comes
/// there stands until the test has done what it wants to: killed it, say, or the target. Then the stream goes on, or is cut.
/// </summary>
internal static class MovePhase
{
    /// <summary>The variable that names the folder.</summary>
    public const string Variable = "VMM_TEST_PHASES";

    public const string Plan = "plan";
    public const string Offer = "offer";
    public const string Accepted = "accepted";
    public const string Copied = "copied";
    public const string State = "state";
    public const string End = "end";
    public const string Ready = "ready";
    public const string Commit = "commit";
    public const string Committed = "committed";
    public const string Go = "go";
    public const string Running = "running";

    private const string Cut = "cut";
    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(5);

    /// <summary>All of them.</summary>
    public static IReadOnlyList<string> All { get; } = [Plan, Offer, Accepted, Copied, State, End, Ready, Commit, Committed, Go, Running];

    /// <summary>Has the next move from a worker stand in a phase.</summary>
    public static async Task HoldAsync(string folder, string worker, string phase)
    {
        // Whole, when it is found.
        await File.WriteAllTextAsync(PathOf(folder, worker, "new"), phase);
        File.Move(PathOf(folder, worker, "new"), PathOf(folder, worker, "hold"));
    }

    /// <summary>Whether it stands there.</summary>
    public static bool IsReached(string folder, string worker) => File.Exists(PathOf(folder, worker, "reached"));

    /// <summary>Lets it go on, with its stream to the target cut or not.</summary>
    public static async Task LetGoAsync(string folder, string worker, bool cuts)
    {
        await File.WriteAllTextAsync(PathOf(folder, worker, "new"), cuts ? Cut : "");
        File.Move(PathOf(folder, worker, "new"), PathOf(folder, worker, "go"));
        File.Delete(PathOf(folder, worker, "reached"));
    }

    /// <summary>Forgets what was left of a worker that was killed.</summary>
    public static void Clear(string folder, string worker)
    {
        foreach (string file in Directory.GetFiles(folder, $"{worker}.*"))
            File.Delete(file);
    }

    /// <summary>The registry of a worker whose moves may be held up.</summary>
    public static async Task<IRegistry> OpenRegistryAsync(string folder, string worker, string connection, TimeSpan lease) => RegistryProxy.Of(
        await PostgresRegistry.OpenAsync(connection, new RegistryOptions { LeaseDuration = lease }),
        isOwner: true,
        (method, _) => Pass(folder, worker, method == nameof(IRegistry.PlanMoveAsync) ? Plan : method == nameof(IRegistry.CommitMoveAsync) ? Commit : ""),
        async (method, call) =>
        {
            await call();
            Pass(folder, worker, method == nameof(IRegistry.CommitMoveAsync) ? Committed : "");
        });

    /// <summary>Stands in its way where the test wants that.</summary>
    /// <exception cref="RpcException">The stream is to be cut.</exception>
    private static void Pass(string folder, string worker, string phase)
    {
        string hold = PathOf(folder, worker, "hold"), go = PathOf(folder, worker, "go");
        if (phase.Length == 0 || !File.Exists(hold) || File.ReadAllText(hold) != phase)
            return;
        File.Move(hold, PathOf(folder, worker, "reached"));
        while (!File.Exists(go))
            Thread.Sleep(Look);
        bool cuts = File.ReadAllText(go) == Cut;
        File.Delete(go);
        if (cuts)
            throw new RpcException(new Status(StatusCode.Unavailable, "cut by the test"));
    }

    private static string PathOf(string folder, string worker, string what) => Path.Combine(folder, $"{worker}.{what}");

    /// <summary>Calls other workers, with moves that may be held up.</summary>
    public sealed class Connector(string folder, string worker) : IWorkerConnector
    {
        private readonly Dictionary<string, GrpcChannel> _channels = new(StringComparer.Ordinal);

        public VmHostService.VmHostServiceClient Connect(WorkerAddress target)
        {
            lock (_channels)
            {
                if (!_channels.TryGetValue(target.Address, out GrpcChannel? channel))
                    _channels[target.Address] = channel = GrpcChannel.ForAddress(target.Address, new GrpcChannelOptions
                    {
                        HttpHandler = new SocketsHttpHandler { EnableMultipleHttp2Connections = true, UseProxy = false },
                        DisposeHttpClient = true,
                        MaxReceiveMessageSize = 8 << 20,
                    });
                return new VmHostService.VmHostServiceClient(channel
                    .Intercept(new MoveSaboteur(request => Pass(folder, worker, PhaseOf(request)), response => Pass(folder, worker, PhaseOf(response))))
                    .Intercept(headers =>
                    {
                        headers.Add(WorkerCall.IncarnationHeader, target.Incarnation.ToString(CultureInfo.InvariantCulture));
                        return headers;
                    }));
            }
        }

        private static string PhaseOf(ReceiveVmRequest request) => request.RequestCase switch
        {
            ReceiveVmRequest.RequestOneofCase.Offer => Offer,
            ReceiveVmRequest.RequestOneofCase.State => State,
            ReceiveVmRequest.RequestOneofCase.End => End,
            ReceiveVmRequest.RequestOneofCase.Committed => Go,
            _ => "",
        };

        private static string PhaseOf(ReceiveVmResponse response) => response.ResponseCase switch
        {
            ReceiveVmResponse.ResponseOneofCase.Accepted => Accepted,
            ReceiveVmResponse.ResponseOneofCase.Round => Copied,
            ReceiveVmResponse.ResponseOneofCase.Ready => Ready,
            ReceiveVmResponse.ResponseOneofCase.Running => Running,
            _ => "",
        };
    }
}
