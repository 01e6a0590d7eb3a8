using System.Collections.Concurrent;
using System.Security.Cryptography;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;

namespace Vmm.Frontend.Access;

/// <summary>
/// From secrets to callers. What the registry says of a token is good for two seconds, so that a call costs no query and a
/// revocation is heard of by then. Where the registry cannot be asked, nobody is let in on what it said before. Thread-safe.
/// </summary>
public sealed class TokenVerifier(IAccessRegistry registry, TimeProvider time)
{
    private const int MaxKnown = 10_000;
    private const string Header = "authorization";
    private const string Scheme = "Bearer ";

    /// <summary>How long an answer of the registry is good for.</summary>
    public static TimeSpan Freshness { get; } = TimeSpan.FromSeconds(2);

    private readonly ConcurrentDictionary<string, (Task<KnownToken?> Answer, DateTimeOffset Until)> _known = new(StringComparer.Ordinal);

    /// <summary>Who has made a call.</summary>
    /// <exception cref="RpcException">UNAUTHENTICATED; UNAVAILABLE where the registry cannot be asked.</exception>
    public async Task<Caller> VerifyAsync(ServerCallContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        string header = context.RequestHeaders.GetValue(Header) ?? "";
        if (header.Length == 0)
            throw ApiError.Unauthenticated("TOKEN_REQUIRED", "This server wants a token: the header 'authorization' with 'Bearer' and the token's secret.");
        if (!header.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase) || !TokenSecret.TryGetId(header[Scheme.Length..].Trim(), out string? id))
            throw Invalid();
        string secret = header[Scheme.Length..].Trim();
        KnownToken? known = await FindAsync($"tokens/{id}").WaitAsync(context.CancellationToken);
        if (known is null || known.IsExpired || !CryptographicOperations.FixedTimeEquals(known.SecretSha256.Span, TokenSecret.Hash(secret).Span))
            throw Invalid();
        return new Caller(known.Token.Name, known.Token.Project.Length > 0 ? known.Token.Project : null, known.Token.Role);
    }

    /// <summary>Forgets what was said of a token, which has changed.</summary>
    public void Forget(string token) => _known.TryRemove(token, out _);

    private async Task<KnownToken?> FindAsync(string name)
    {
        DateTimeOffset now = time.GetUtcNow();
        if (!_known.TryGetValue(name, out var known) || known.Until <= now || known.Answer.IsFaulted || known.Answer.IsCanceled)
        {
            if (_known.Count >= MaxKnown)
                _known.Clear();
            // Not the caller's to give up: others wait for the same answer.
            _known[name] = known = (registry.FindTokenAsync(name, uses: true, CancellationToken.None), now + Freshness);
        }

        return await known.Answer;
    }

    // The same whatever is wrong: which tokens there are is nobody's to try out.
    private static RpcException Invalid() => ApiError.Unauthenticated("TOKEN_INVALID", "The token is not valid: it is unknown, revoked or expired.");
}
