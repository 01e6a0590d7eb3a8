using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Frontend.Access;
using Vmm.Frontend.Listing;
using Vmm.Frontend.Validation;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend;

/// <summary>The public API of tokens. The contract is in <c>protos/vmm/v1/token_service.proto</c>.</summary>
/// <param name="registry">Keeps tokens.</param>
/// <param name="authorizer">Says what a caller may see.</param>
/// <param name="verifier">Is told of changes; null where calls need no tokens, which can be made all the same, for later.</param>
/// <param name="time">What is in the future.</param>
public sealed class TokensApi(IAccessRegistry registry, IAuthorizer authorizer, TokenVerifier? verifier, TimeProvider time) : TokenService.TokenServiceBase
{
    private const string Collection = "tokens";

    /// <inheritdoc/>
    public override async Task<CreateTokenResponse> CreateToken(CreateTokenRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.NewId(request.TokenId, "token_id");
        violations.RequestId(request.RequestId);
        if (violations.Check(request.Token is not null, "token", "is required."))
        {
            violations.DisplayName(request.Token!.DisplayName, "token.display_name");
            violations.Check(System.Enum.IsDefined(request.Token.Role) && request.Token.Role != Role.Unspecified, "token.role", $"is {(int)request.Token.Role}; it must be VIEWER, OPERATOR or ADMIN.");
            violations.Future(request.Token.ExpireTime, time.GetUtcNow(), "token.expire_time");
            if (request.Token.Project.Length > 0)
                violations.ProjectName(request.Token.Project, "token.project");
        }

        violations.ThrowIfAny();
        Token wanted = request.Token!;
        await authorizer.AuthorizeAsync(context, wanted.Project);
        if (wanted.Project.Length == 0 && CallerOf(context).Project is { } own)
            throw ApiError.PermissionDenied("ROLE_REQUIRED", $"A token for all projects takes one to make it; name {own} as this one's project.");
        string id = request.TokenId.Length > 0 ? request.TokenId : MadeUpId.For("token", Collection, request.RequestId);
        string secret = TokenSecret.New(id);
        Token made = await registry.CreateTokenAsync(
            new StoredToken
            {
                Token = new Token { Name = $"{Collection}/{id}", DisplayName = wanted.DisplayName, Project = wanted.Project, Role = wanted.Role, ExpireTime = wanted.ExpireTime },
                SecretSha256 = TokenSecret.Hash(secret),
                RequestId = request.RequestId,
                Fingerprint = request.RequestId.Length > 0 ? RequestFingerprint.Of(nameof(CreateToken), request).Fingerprint : ByteString.Empty,
            },
            context.CancellationToken);
        CallState.Of(context).Resource = made.Name;
        verifier?.Forget(made.Name);
        return new CreateTokenResponse { Token = made, Secret = secret };
    }

    /// <inheritdoc/>
    public override Task<Token> GetToken(GetTokenRequest request, ServerCallContext context) => RequireAsync(request.Name, context);

    /// <inheritdoc/>
    public override async Task<ListTokensResponse> ListTokens(ListTokensRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.PageToken(request.PageToken);
        violations.ThrowIfAny();
        Predicate<Token> matches = ResourceFields.TokenFilter(request.Filter);
        var pager = new Pager<Token>($"tokens {request.Filter}", request.PageSize, request.PageToken, "", ResourceFields.TokenOrders, static token => new Token { Name = token.Name });
        await authorizer.AuthorizeAsync(context, Collection);
        Caller caller = CallerOf(context);
        IReadOnlyList<Token> all = await registry.ListTokensAsync(context.CancellationToken);
        (List<Token> page, string next) = pager.Take(all.Where(token => caller.Sees(token.Project) && matches(token)));
        return new ListTokensResponse { Tokens = { page }, NextPageToken = next };
    }

    /// <inheritdoc/>
    public override async Task<Empty> DeleteToken(DeleteTokenRequest request, ServerCallContext context)
    {
        await RequireAsync(request.Name, context);
        await registry.DeleteTokenAsync(request.Name, context.CancellationToken);
        verifier?.Forget(request.Name);
        return new Empty();
    }

    private async Task<Token> RequireAsync(string name, ServerCallContext context)
    {
        var violations = new Violations();
        violations.TokenName(name);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
        KnownToken? known = await registry.FindTokenAsync(name, uses: false, context.CancellationToken);
        return known is not null && CallerOf(context).Sees(known.Token.Project) ? known.Token : throw ApiError.NotFound(name);
    }

    private static Caller CallerOf(ServerCallContext context) => CallState.Of(context).Caller!;
}
