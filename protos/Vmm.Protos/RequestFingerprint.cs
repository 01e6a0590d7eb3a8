using System.Security.Cryptography;
using System.Text;
using Google.Protobuf;
using Google.Protobuf.Collections;
using Google.Protobuf.Reflection;
using Vmm.V1;

namespace Vmm.Protos;

/// <summary>What makes two requests with one id the same request.</summary>
public static class RequestFingerprint
{
    /// <summary>A request's id, empty where it has none, and a digest of the method and of everything else that the request says.</summary>
    /// <param name="method">The method's name.</param>
    /// <param name="request">A request with a field <c>request_id</c>.</param>
    public static (string Id, ByteString Fingerprint) Of(string method, IMessage request)
    {
        ArgumentNullException.ThrowIfNull(request);
        IMessage copy = request.Descriptor.Parser.ParseFrom(request.ToByteString());
        FieldDescriptor field = request.Descriptor.FindFieldByName("request_id");
        string id = (string)field.Accessor.GetValue(copy);
        field.Accessor.Clear(copy);
        foreach (MapField<string, string> labels in Labels(copy))
            Sort(labels);
        return (id, ByteString.CopyFrom(SHA256.HashData([.. Encoding.ASCII.GetBytes(method), 0, .. copy.ToByteArray()])));
    }

    /// <summary>Maps in whose order clients differ: the same question gives the same bytes.</summary>
    private static IEnumerable<MapField<string, string>> Labels(IMessage request) => request switch
    {
        CreateVmRequest { Vm: { } vm } => [vm.Labels, .. Placement(vm.Spec?.Placement)],
        UpdateVmRequest { Vm: { } vm } => [vm.Labels],
        RestoreSnapshotRequest restore => [restore.Labels],
        _ => [],
    };

    private static IEnumerable<MapField<string, string>> Placement(PlacementSpec? placement) =>
        placement is null ? [] : [placement.WorkerLabels, placement.WithVmLabels, placement.ApartFromVmLabels];

    private static void Sort(MapField<string, string> labels)
    {
        KeyValuePair<string, string>[] ordered = [.. labels.OrderBy(label => label.Key, StringComparer.Ordinal)];
        labels.Clear();
        foreach ((string name, string value) in ordered)
            labels.Add(name, value);
    }
}
