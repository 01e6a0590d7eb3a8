using System.Text;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;

namespace Vmm.Frontend.Validation;

/// <summary>Collects what is wrong with a request, so that the caller hears all of it at once.</summary>
internal sealed class Violations
{
    private const string WorkerCollection = "workers/";
    private const int MaxPageTokenLength = 64 << 10;
    private const int MaxRequestIdLength = 64;
    private const int MaxEtagLength = 64;
    private const int MaxCommandLineBytes = 2047;
    private const int MaxPathBytes = 4095;
    private const int MaxDisplayNameBytes = 255;

    private readonly List<FieldViolation> _list = [];

    /// <summary>Notes a violation.</summary>
    public void Add(string field, string description) => _list.Add(new FieldViolation(field, description));

    /// <summary>Notes a violation unless the condition holds; returns the condition.</summary>
    public bool Check(bool condition, string field, string description)
    {
        if (!condition)
            Add(field, description);
        return condition;
    }

    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT with every violation, where there is one.</exception>
    public void ThrowIfAny()
    {
        if (_list.Count > 0)
            throw ApiError.InvalidFields(_list);
    }

    /// <summary>The parent, or the default one where it is empty.</summary>
    public string Parent(string parent)
    {
        if (parent.Length == 0)
            return ResourceName.DefaultParent;
        Check(ResourceName.TryParseProject(parent, out _), "parent", $"is {ApiError.Quote(parent)}; it must be projects/{{project}}, with an id of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");
        return parent;
    }

    /// <summary>A VM's name.</summary>
    public void VmName(string name, string field = "name") =>
        Check(ResourceName.TryParseVm(name, out _, out _), field, $"is {ApiError.Quote(name)}; it must be projects/{{project}}/vms/{{vm}}, with ids of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");

    /// <summary>An image's name.</summary>
    public bool ImageName(string name, string field = "name") =>
        Check(ResourceName.TryParseImage(name, out _, out _), field, $"is {ApiError.Quote(name)}; it must be projects/{{project}}/images/sha256-{{64 lower-case hexadecimal digits}}.");

    /// <summary>A snapshot's name.</summary>
    public bool SnapshotName(string name, string field = "name") =>
        Check(ResourceName.TryParseSnapshot(name, out _, out _), field, $"is {ApiError.Quote(name)}; it must be projects/{{project}}/snapshots/{{snapshot}}, with ids of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");

    /// <summary>A worker's name.</summary>
    public void WorkerName(string name, string field = "name") => Check(
        name.StartsWith(WorkerCollection, StringComparison.Ordinal) && ResourceName.IsId(name.AsSpan(WorkerCollection.Length)),
        field,
        $"is {ApiError.Quote(name)}; it must be workers/{{worker}}, with an id of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");

    /// <summary>A project's name.</summary>
    public void ProjectName(string name, string field = "name") =>
        Check(ResourceName.TryParseProject(name, out _), field, $"is {ApiError.Quote(name)}; it must be projects/{{project}}, with an id of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");

    /// <summary>A token's name.</summary>
    public void TokenName(string name, string field = "name") =>
        Check(
            name.StartsWith("tokens/", StringComparison.Ordinal) && ResourceName.IsId(name.AsSpan("tokens/".Length)),
            field,
            $"is {ApiError.Quote(name)}; it must be tokens/{{token}}, with an id of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");

    /// <summary>A name for people.</summary>
    public void DisplayName(string name, string field) => Check(
        Encoding.UTF8.GetByteCount(name) <= MaxDisplayNameBytes && !name.Any(char.IsControl), field, $"must be at most {MaxDisplayNameBytes} bytes without control characters.");

    /// <summary>A moment that is still to come, or none.</summary>
    public void Future(Timestamp? moment, DateTimeOffset now, string field)
    {
        const int nanosecondsPerSecond = 1_000_000_000;
        if (moment is not null)
            Check(
                moment.Nanos is >= 0 and < nanosecondsPerSecond && moment.Seconds <= DateTimeOffset.MaxValue.ToUnixTimeSeconds() && moment.Seconds > now.ToUnixTimeSeconds(),
                field,
                "must be in the future.");
    }

    /// <summary>The id of a resource to be made, or none.</summary>
    public void NewId(string id, string field) =>
        Check(id.Length == 0 || ResourceName.IsId(id), field, $"is {ApiError.Quote(id)}; it must match [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");

    /// <summary>A SHA-256.</summary>
    public void Sha256(string digits, string field = "sha256") =>
        Check(ResourceName.IsSha256(digits), field, "must be the 64 lower-case hexadecimal digits of a SHA-256.");

    /// <summary>A request id, or none.</summary>
    public void RequestId(string id, string field = "request_id") =>
        Check(id.Length <= MaxRequestIdLength && id.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-'), field, $"must be at most {MaxRequestIdLength} of [A-Za-z0-9._-], such as a UUID.");

    /// <summary>A page token of a reasonable length, or none. Whether it is one of the list in question, the pager sees.</summary>
    public void PageToken(string token) => Check(token.Length <= MaxPageTokenLength, "page_token", "is not a token of this list.");

    /// <summary>An etag, or none.</summary>
    public void Etag(string etag, string field = "etag") =>
        Check(etag.Length <= MaxEtagLength, field, "is not an etag that this server gave out.");

    /// <summary>What every change of a resource carries: the etag that it is based on and the request's id, or neither.</summary>
    public void Change(string etag, string requestId, string etagField = "etag")
    {
        Etag(etag, etagField);
        RequestId(requestId);
    }

    /// <summary>A vCPU's number; whether the VM has it is seen later.</summary>
    public void Vcpu(int vcpu) => Check(vcpu >= 0, "vcpu", $"is {vcpu}; vCPUs are counted from 0.");

    /// <summary>A kernel's or module's command line.</summary>
    public void CommandLine(string line, string field)
    {
        int bytes = Encoding.UTF8.GetByteCount(line);
        Check(bytes <= MaxCommandLineBytes, field, $"has {bytes} bytes; at most {MaxCommandLineBytes} are possible.");
        Check(!line.Contains('\0', StringComparison.Ordinal), field, "contains a NUL.");
    }

    /// <summary>A path on the server; whether it may be used is the worker's to say.</summary>
    public void ServerPath(string path, string field)
    {
        Check(Encoding.UTF8.GetByteCount(path) <= MaxPathBytes, field, $"is longer than {MaxPathBytes} bytes.");
        if (!Check(!path.Any(char.IsControl), field, "contains control characters."))
            return;
        Check(path.StartsWith('/') || Path.IsPathFullyQualified(path), field, $"is {ApiError.Quote(path)}; it must be an absolute path on the server's host.");
        Check(!path.Split('/').Any(part => part is "." or ".."), field, "must not contain '.' or '..'.");
    }

    /// <summary>Labels.</summary>
    public void Labels(IReadOnlyDictionary<string, string> labels, string field, int maxLabels = 64)
    {
        const int maxLength = 63;
        Check(labels.Count <= maxLabels, field, $"has {labels.Count} entries; at most {maxLabels} are possible.");
        foreach ((string key, string value) in labels.Take(maxLabels + 1))
        {
            Check(
                key.Length is > 0 and <= maxLength && char.IsAsciiLetterLower(key[0]) && key.All(c => char.IsAsciiLetterLower(c) || char.IsAsciiDigit(c) || c is '_' or '-'),
                field,
                $"has the key {ApiError.Quote(key)}; keys must match [a-z]([a-z0-9_-]{{0,62}}).");
            Check(
                value.Length <= maxLength && value.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-'),
                field,
                $"has the value {ApiError.Quote(value)} for {ApiError.Quote(key)}; values are at most {maxLength} of [A-Za-z0-9._-].");
        }
    }

    /// <summary>A duration from <paramref name="min"/> to <paramref name="max"/>, or none; the bounds are whole seconds.</summary>
    public void Duration(Duration? duration, TimeSpan max, string field, TimeSpan min = default)
    {
        if (duration is null)
            return;
        const int nanosecondsPerSecond = 1_000_000_000;
        bool valid = duration.Seconds >= 0 && duration.Nanos is >= 0 and < nanosecondsPerSecond && duration.Seconds >= (long)min.TotalSeconds;
        Check(valid && (duration.Seconds < (long)max.TotalSeconds || (duration.Seconds == (long)max.TotalSeconds && duration.Nanos == 0)), field, $"must be between {min.TotalSeconds:0} and {max.TotalSeconds:0} seconds.");
    }
}
