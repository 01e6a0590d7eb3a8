using System.Security.Cryptography;
using System.Text;

namespace Vmm.Frontend;

/// <summary>Ids for resources whose creators have none in mind.</summary>
internal static class MadeUpId
{
    /// <summary>From the request's id where there is one, so that a repeated request asks for the same.</summary>
    public static string For(string prefix, string parent, string requestId)
    {
        byte[] seed = requestId.Length > 0 ? SHA256.HashData(Encoding.UTF8.GetBytes($"{parent} {requestId}")) : RandomNumberGenerator.GetBytes(8);
        return $"{prefix}-{Convert.ToHexStringLower(seed.AsSpan(0, 5))}";
    }
}
