using Google.Protobuf;
using Vmm.Protos;
using Vmm.Registry;

namespace Vmm.Frontend;

/// <summary>Requests as the registry knows them.</summary>
internal static class RequestKeys
{
    /// <summary>The key of a request that its client may repeat; null where it has no id.</summary>
    public static RequestKey? Of(string method, string project, IMessage request)
    {
        (string id, ByteString fingerprint) = RequestFingerprint.Of(method, request);
        return id.Length == 0 ? null : new RequestKey(project, id, fingerprint);
    }

    /// <summary>The request's id, which may be empty.</summary>
    public static string IdOf(IMessage request) => (string)request.Descriptor.FindFieldByName("request_id").Accessor.GetValue(request);

    /// <summary>The project of a resource.</summary>
    public static string ProjectOf(string name) => name[..name.IndexOf('/', "projects/".Length)];
}
