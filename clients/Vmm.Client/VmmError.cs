using Google.Protobuf;
using Google.Rpc;
using Grpc.Core;

namespace Vmm.Client;

/// <summary>One thing that a server found wrong: with a field of the request, or with the state of something.</summary>
/// <param name="Subject">The field's path, or the resource whose state is at fault.</param>
/// <param name="Kind">For a precondition its type, for a field empty.</param>
/// <param name="Description">For people.</param>
public sealed record VmmViolation(string Subject, string Kind, string Description);

/// <summary>The google.rpc details of a failed call.</summary>
public sealed record VmmError
{
    private const string DetailsTrailer = "grpc-status-details-bin";

    /// <summary>The status' code.</summary>
    public required StatusCode Code { get; init; }

    /// <summary>The status' message.</summary>
    public required string Message { get; init; }

    /// <summary>The stable reason, such as <c>ETAG_MISMATCH</c>; empty where the error did not come from Vmm.</summary>
    public string Reason { get; init; } = "";

    /// <summary>Facts that go with the reason.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; init; } = new Dictionary<string, string>();

    /// <summary>Fields at fault.</summary>
    public IReadOnlyList<VmmViolation> Fields { get; init; } = [];

    /// <summary>Preconditions that do not hold.</summary>
    public IReadOnlyList<VmmViolation> Preconditions { get; init; } = [];

    /// <summary>Limits that do not allow it: of a project, or of each worker that would have to have room.</summary>
    public IReadOnlyList<VmmViolation> Quotas { get; init; } = [];

    /// <summary>Reads what a failed call carries. Never fails: details that are missing or garbled are left empty.</summary>
    public static VmmError From(RpcException exception)
    {
        ArgumentNullException.ThrowIfNull(exception);
        var bare = new VmmError { Code = exception.StatusCode, Message = exception.Status.Detail ?? "" };
        byte[]? bytes = exception.Trailers.GetValueBytes(DetailsTrailer);
        if (bytes is null)
            return bare;
        try
        {
            return Parse(bare, Google.Rpc.Status.Parser.ParseFrom(bytes));
        }
        catch (InvalidProtocolBufferException)
        {
            return bare;
        }
    }

    /// <summary>The message with every violation on a line of its own.</summary>
    public string ToText()
    {
        // A failed precondition is the message itself, mostly, and so is a limit.
        IEnumerable<string> lines = Fields.Concat(Preconditions.Concat(Quotas).Where(each => !Message.Contains(each.Description, StringComparison.Ordinal)))
            .Select(violation => $"{violation.Subject}: {violation.Description}")
            .Where(line => !Message.Contains(line, StringComparison.Ordinal));
        return string.Join('\n', lines.Prepend(Message));
    }

    private static VmmError Parse(VmmError error, Google.Rpc.Status status)
    {
        foreach (Google.Protobuf.WellKnownTypes.Any any in status.Details)
        {
            // ErrorInfo's first field, `reason` on the wire's side, is called Type in the generated code that the feed carries.
            if (any.TryUnpack(out ErrorInfo info))
                error = error with { Reason = info.Type, Metadata = new Dictionary<string, string>(info.Metadata) };
            else if (any.TryUnpack(out BadRequest bad))
                error = error with { Fields = [.. bad.FieldViolations.Select(v => new VmmViolation(v.Field, "", v.Description))] };
            else if (any.TryUnpack(out PreconditionFailure failure))
                error = error with { Preconditions = [.. failure.Violations.Select(v => new VmmViolation(v.Subject, v.Type, v.Description))] };
            else if (any.TryUnpack(out QuotaFailure quota))
                error = error with { Quotas = [.. quota.Violations.Select(v => new VmmViolation(v.Subject, "", v.Description))] };
        }

        return error;
    }
}
