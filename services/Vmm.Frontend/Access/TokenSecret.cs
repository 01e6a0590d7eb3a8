using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using System.Text;
using Google.Protobuf;
using Vmm.Protos;

namespace Vmm.Frontend.Access;

/// <summary>
/// The secrets of tokens: <c>vmm_{token}_{64 hexadecimal digits}</c>, where the digits are 256 random bits. So much chance needs
/// neither salt nor a slow hash: its SHA-256 tells nothing. The prefix lets scanners find secrets where they should not be.
/// </summary>
public static class TokenSecret
{
    private const string Prefix = TokenText.Prefix;
    private const int Digits = 64;

    /// <summary>A new one.</summary>
    /// <param name="id">The token's id, the last part of its name.</param>
    public static string New(string id) => $"{Prefix}{id}_{Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(Digits / 2))}";

    /// <summary>What is kept of it.</summary>
    public static ByteString Hash(string secret) => ByteString.CopyFrom(SHA256.HashData(Encoding.UTF8.GetBytes(secret)));

    /// <summary>The id in what may be a secret.</summary>
    public static bool TryGetId(string secret, [NotNullWhen(true)] out string? id)
    {
        ArgumentNullException.ThrowIfNull(secret);
        int end = secret.Length - Digits - 1;
        id = end > Prefix.Length && secret.StartsWith(Prefix, StringComparison.Ordinal) && secret[end] == '_' && ResourceName.IsSha256(secret.AsSpan(end + 1)) && ResourceName.IsId(secret.AsSpan(Prefix.Length, end - Prefix.Length))
            ? secret[Prefix.Length..end]
            : null;
        return id is not null;
    }
}
