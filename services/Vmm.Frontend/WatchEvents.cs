using System.Buffers.Text;
using System.Security.Cryptography;
using System.Text;
using Google.Protobuf;
using Vmm.Frontend.Listing;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <summary>From the changes of a project's VMs to the events of one watch, with its filter and its resume tokens.</summary>
internal sealed class WatchEvents
{
    private const int QueryDigestBytes = 8;
    private const int MaxTokenLength = 256;

    private readonly Predicate<Vm> _matches;
    private readonly byte[] _query;

    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: the filter.</exception>
    public WatchEvents(string parent, string filter, string apicvVm)
    {
        _matches = ResourceFields.VmFilter(filter);
        string query = apicvVm.Length == 0 ? $"watch {parent} {filter}" : $"watch {parent} {filter} apicv {apicvVm}";
        _query = SHA256.HashData(Encoding.UTF8.GetBytes(query))[..QueryDigestBytes];
    }

    /// <summary>Where the watch stands.</summary>
    public WatchPosition Position { get; private set; } = new();

    /// <summary>The event of APICv, which moves the watch on in its APICv events alone.</summary>
    public VmEvent From(ApicvEvent item)
    {
        Position = new WatchPosition(Position) { ApicvToken = item.ResumeToken };
        return At(new VmEvent { Type = VmEvent.Types.Type.Apicv, Apicv = item }, Position);
    }

    /// <summary>The watch begins, or goes on, from here.</summary>
    public void Begin(WatchPosition position) => Position = position;

    /// <summary>The event of a VM that there is at the start of the watch, or null where the filter leaves it out.</summary>
    public VmEvent? Present(Vm vm) => _matches(vm) ? new VmEvent { Type = VmEvent.Types.Type.Added, Vm = vm } : null;

    /// <summary>The event after the last of those.</summary>
    public VmEvent Synced(EventPosition position) => At(new VmEvent { Type = VmEvent.Types.Type.Synced }, position);

    /// <summary>The position that a token stands for.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: not a token of a watch with this parent and filter.</exception>
    public WatchPosition ParseToken(string token)
    {
        try
        {
            if (token.Length <= MaxTokenLength && Base64Url.DecodeFromChars(token) is { } bytes && bytes.AsSpan().StartsWith(_query))
                return WatchPosition.Parser.ParseFrom(bytes, QueryDigestBytes, bytes.Length - QueryDigestBytes);
        }
        catch (Exception exception) when (exception is FormatException or InvalidProtocolBufferException)
        {
            // Every token that was not made here gets the one answer below.
        }

        throw ApiError.InvalidField("resume_token", "is not a token of this watch; parent, filter and apicv_vm must be those of the watch before.");
    }

    /// <summary>The event of a change, or null where the filter leaves nothing to tell.</summary>
    public VmEvent? From(VmEventRecord change)
    {
        bool before = change.Before is not null && _matches(change.Before);
        bool after = change.After is not null && _matches(change.After);
        VmEvent? item = (before, after) switch
        {
            (false, true) => new VmEvent { Type = VmEvent.Types.Type.Added, Vm = change.After },
            (true, true) => new VmEvent { Type = VmEvent.Types.Type.Modified, Vm = change.After },
            (true, false) => new VmEvent { Type = VmEvent.Types.Type.Removed, Vm = change.Before },
            _ => null,
        };
        return item is null ? null : At(item, change.Position);
    }

    private VmEvent At(VmEvent item, EventPosition reached) => At(item, new WatchPosition { Epoch = reached.Epoch, Sequence = (ulong)reached.Sequence });

    private VmEvent At(VmEvent item, WatchPosition reached)
    {
        var position = new WatchPosition(reached) { ApicvToken = Position.ApicvToken };
        Position = position;
        item.Sequence = position.Sequence;
        item.ResumeToken = Base64Url.EncodeToString([.. _query, .. position.ToByteArray()]);
        return item;
    }
}
