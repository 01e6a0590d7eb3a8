using System.Globalization;
using System.Text;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;

namespace Vmm.Protos;

/// <summary>A field of a request that is not acceptable.</summary>
/// <param name="Field">Its path, such as <c>vm.spec.memory_mib</c>.</param>
/// <param name="Description">What is wrong with it.</param>
public readonly record struct FieldViolation(string Field, string Description);

/// <summary>
/// The errors of the API: a status with google.rpc details, of which ErrorInfo (domain <c>vmm</c>) is always one. Its reason is
/// stable; messages are for people and may change.
/// </summary>
public static class ApiError
{
    /// <summary>ErrorInfo's domain.</summary>
    public const string Domain = "vmm";

    /// <summary>The trailer that carries the details.</summary>
    public const string DetailsTrailer = "grpc-status-details-bin";

    /// <summary>HTTP/2 peers limit header lists, to 64 KiB commonly: so much of a message or value is echoed.</summary>
    private const int MaxEchoChars = 80;
    private const int MaxViolations = 32;

    /// <summary>INVALID_ARGUMENT because of one field.</summary>
    public static RpcException InvalidField(string field, string description, string reason = "INVALID_FIELD") =>
        InvalidFields([new FieldViolation(field, description)], reason);

    /// <summary>INVALID_ARGUMENT with every field at fault.</summary>
    public static RpcException InvalidFields(IReadOnlyList<FieldViolation> violations, string reason = "INVALID_FIELD")
    {
        ArgumentNullException.ThrowIfNull(violations);
        var detail = new BadRequest();
        foreach (FieldViolation violation in violations.Take(MaxViolations))
            detail.FieldViolations.Add(new BadRequest.Types.FieldViolation { Field = violation.Field, Description = violation.Description });
        string message = violations.Count == 0
            ? "The request is not valid."
            : $"{violations[0].Field}: {violations[0].Description}" + (violations.Count > 1 ? $" (and {violations.Count - 1} more)" : "");
        return Create(StatusCode.InvalidArgument, reason, message, null, detail);
    }

    /// <summary>NOT_FOUND.</summary>
    public static RpcException NotFound(string resource) => Create(
        StatusCode.NotFound, "NOT_FOUND", $"{Quote(resource)} does not exist.", [("resource", resource)], Resource(resource));

    /// <summary>ALREADY_EXISTS.</summary>
    public static RpcException AlreadyExists(string resource) => Create(
        StatusCode.AlreadyExists, "ALREADY_EXISTS", $"{Quote(resource)} exists already.", [("resource", resource)], Resource(resource));

    /// <summary>FAILED_PRECONDITION: <paramref name="type"/> says what kind of condition, <paramref name="subject"/> of what.</summary>
    public static RpcException FailedPrecondition(string reason, string type, string subject, string description, params (string Key, string Value)[] metadata)
    {
        var detail = new PreconditionFailure();
        detail.Violations.Add(new PreconditionFailure.Types.Violation { Type = type, Subject = Shorten(subject), Description = description });
        return Create(StatusCode.FailedPrecondition, reason, description, [("subject", subject), .. metadata], detail);
    }

    /// <summary>ABORTED: the caller lost against a concurrent change and should look again.</summary>
    public static RpcException Aborted(string reason, string description, params (string Key, string Value)[] metadata) =>
        Create(StatusCode.Aborted, reason, description, metadata);

    /// <summary>OUT_OF_RANGE.</summary>
    public static RpcException OutOfRange(string reason, string description, params (string Key, string Value)[] metadata) =>
        Create(StatusCode.OutOfRange, reason, description, metadata);

    /// <summary>RESOURCE_EXHAUSTED: a limit of the server's configuration.</summary>
    public static RpcException ResourceExhausted(string reason, string subject, string description, params (string Key, string Value)[] metadata) =>
        ResourceExhausted(reason, description, [(subject, description)], metadata);

    /// <summary>RESOURCE_EXHAUSTED: limits of several things, each with a violation of its own.</summary>
    public static RpcException ResourceExhausted(string reason, string message, IReadOnlyList<(string Subject, string Description)> violations, params (string Key, string Value)[] metadata)
    {
        ArgumentNullException.ThrowIfNull(violations);
        var detail = new QuotaFailure();
        foreach ((string subject, string description) in violations.Take(MaxViolations))
            detail.Violations.Add(new QuotaFailure.Types.Violation { Subject = Shorten(subject), Description = description });
        return Create(StatusCode.ResourceExhausted, reason, message, metadata, detail);
    }

    /// <summary>RESOURCE_EXHAUSTED: limits of a project, each with a violation of its own.</summary>
    public static RpcException QuotaExceeded(string project, IReadOnlyList<string> descriptions)
    {
        ArgumentNullException.ThrowIfNull(descriptions);
        return ResourceExhausted(
            "QUOTA_EXCEEDED", $"The quota of {Quote(project)} is used up: {string.Join("; ", descriptions)}.", [.. descriptions.Select(description => (project, description))], ("project", project));
    }

    /// <summary>The same error without what it says of single resources whose names begin with <paramref name="prefix"/> in its quota violations.</summary>
    public static RpcException WithoutQuotasOf(RpcException exception, string prefix)
    {
        ArgumentNullException.ThrowIfNull(exception);
        if (StatusOf(exception) is not { } status)
            return exception;
        var shown = new Google.Rpc.Status { Code = status.Code, Message = status.Message };
        foreach (Any detail in status.Details)
        {
            if (!detail.TryUnpack(out QuotaFailure failure))
            {
                shown.Details.Add(detail);
                continue;
            }

            var rest = new QuotaFailure { Violations = { failure.Violations.Where(violation => !violation.Subject.StartsWith(prefix, StringComparison.Ordinal)) } };
            if (rest.Violations.Count > 0)
                shown.Details.Add(Any.Pack(rest));
        }

        return new RpcException(exception.Status, new Metadata { { DetailsTrailer, shown.ToByteArray() } });
    }

    /// <summary>UNAUTHENTICATED: nobody knows who calls.</summary>
    public static RpcException Unauthenticated(string reason, string description) => Create(StatusCode.Unauthenticated, reason, description, null);

    /// <summary>UNAVAILABLE: trying again later may help.</summary>
    public static RpcException Unavailable(string reason, string description) =>
        Create(StatusCode.Unavailable, reason, description, null, new RetryInfo { RetryDelay = Duration.FromTimeSpan(TimeSpan.FromMilliseconds(500)) });

    /// <summary>CANCELLED: the caller went away or gave up.</summary>
    public static RpcException Cancelled() => Create(StatusCode.Cancelled, "CANCELLED", "The call was cancelled.", null);

    /// <summary>DEADLINE_EXCEEDED.</summary>
    public static RpcException DeadlineExceeded() => Create(StatusCode.DeadlineExceeded, "DEADLINE_EXCEEDED", "The deadline passed before the call was done.", null);

    /// <summary>DATA_LOSS: what was kept is damaged.</summary>
    public static RpcException DataLoss(string reason, string description) => Create(StatusCode.DataLoss, reason, description, null);

    /// <summary>PERMISSION_DENIED.</summary>
    public static RpcException PermissionDenied(string reason, string description) => Create(StatusCode.PermissionDenied, reason, description, null);

    /// <summary>INTERNAL: a bug of ours. The incident id stands in the server's log too.</summary>
    public static RpcException Internal(string incident) => Create(
        StatusCode.Internal, "INTERNAL", $"The server failed at this call; its log has more under incident {incident}.", [("incident", incident)]);

    /// <summary>Any status with an ErrorInfo and further details.</summary>
    public static RpcException Create(StatusCode code, string reason, string message, IReadOnlyList<(string Key, string Value)>? metadata, params IMessage[] details)
    {
        ArgumentNullException.ThrowIfNull(details);
        // The first field of ErrorInfo is called `reason` in google/rpc today; the generated code on the feed calls it Type.
        var info = new ErrorInfo { Type = reason, Domain = Domain };
        foreach ((string key, string value) in metadata ?? [])
            info.Metadata[key] = Shorten(value);
        var status = new Google.Rpc.Status { Code = (int)code, Message = message };
        status.Details.Add(Any.Pack(info));
        foreach (IMessage detail in details)
            status.Details.Add(Any.Pack(detail));
        return new RpcException(new Grpc.Core.Status(code, message), new Metadata { { DetailsTrailer, status.ToByteArray() } });
    }

    /// <summary>The stable reason that a status carries; empty where it carries none.</summary>
    public static string ReasonOf(RpcException exception) => InfoOf(exception)?.Type ?? "";

    /// <summary>An entry of the metadata that a status carries; null where it does not.</summary>
    public static string? MetadataOf(RpcException exception, string key) =>
        InfoOf(exception) is { } info && info.Metadata.TryGetValue(key, out string? value) ? value : null;

    private static ErrorInfo? InfoOf(RpcException exception)
    {
        ArgumentNullException.ThrowIfNull(exception);
        foreach (Any detail in StatusOf(exception)?.Details ?? [])
            if (detail.TryUnpack(out ErrorInfo info))
                return info;
        return null;
    }

    private static Google.Rpc.Status? StatusOf(RpcException exception)
    {
        try
        {
            return exception.Trailers.GetValueBytes(DetailsTrailer) is { } bytes ? Google.Rpc.Status.Parser.ParseFrom(bytes) : null;
        }
        catch (InvalidProtocolBufferException)
        {
            // Whoever it came from is none of ours.
            return null;
        }
    }

    /// <summary>Whether an exception carries details of ours.</summary>
    public static bool HasDetails(RpcException exception)
    {
        ArgumentNullException.ThrowIfNull(exception);
        return exception.Trailers.Get(DetailsTrailer) is not null;
    }

    /// <summary>A status' code as google.rpc.Code has it, such as NOT_FOUND.</summary>
    public static string NameOf(StatusCode code) => code == StatusCode.OK ? "OK" : string.Concat(code.ToString().Select((c, i) => i > 0 && char.IsUpper(c) ? $"_{c}" : $"{char.ToUpperInvariant(c)}"));

    /// <summary>A value of the caller's as it may stand in a message: quoted, shortened, without control characters.</summary>
    public static string Quote(string value) => $"'{Shorten(value)}'";

    private static string Shorten(string value)
    {
        value = TokenText.Redact(value);
        var text = new StringBuilder(Math.Min(value.Length, MaxEchoChars + 8));
        foreach (char c in value)
        {
            if (text.Length >= MaxEchoChars)
            {
                text.Append('…');
                break;
            }

            if (char.IsControl(c) || char.IsSurrogate(c))
                text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
            else
                text.Append(c);
        }

        return text.ToString();
    }

    private static ResourceInfo Resource(string name) => new() { ResourceType = TypeOf(name), ResourceName = Shorten(name) };

    private static string TypeOf(string name) =>
        name.StartsWith("workers/", StringComparison.Ordinal) ? "vmm.v1.Worker"
        : name.StartsWith("tokens/", StringComparison.Ordinal) ? "vmm.v1.Token"
        : ResourceName.TryParseProject(name, out _) ? "vmm.v1.Project"
        : name.Contains("/images/", StringComparison.Ordinal) ? "vmm.v1.Image" : name.Contains("/snapshots/", StringComparison.Ordinal) ? "vmm.v1.Snapshot" : "vmm.v1.Vm";
}
