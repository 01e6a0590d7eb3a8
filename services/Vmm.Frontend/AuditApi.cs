using Grpc.Core;
using Vmm.Frontend.Access;
using Vmm.Frontend.Listing;
using Vmm.Frontend.Validation;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Frontend;

/// <summary>The public API of the audit log. The contract is in <c>protos/vmm/v1/audit_service.proto</c>.</summary>
public sealed class AuditApi(IAccessRegistry registry, IAuthorizer authorizer) : AuditService.AuditServiceBase
{
    private const int EntriesPerRead = 1000;

    /// <summary>A filter that matches little must not keep a call busy for ever.</summary>
    private const int MaxEntriesPerCall = 20_000;

    /// <inheritdoc/>
    public override async Task<ListAuditEntriesResponse> ListAuditEntries(ListAuditEntriesRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        if (request.Parent.Length > 0)
            violations.ProjectName(request.Parent, "parent");
        violations.PageToken(request.PageToken);
        violations.ThrowIfAny();
        Predicate<AuditEntry> matches = ResourceFields.AuditFilter(request.Filter);
        var pager = new Pager<AuditEntry>(
            $"audit {request.Parent} {request.Filter}", request.PageSize, request.PageToken, "", ResourceFields.AuditOrders, static entry => new AuditEntry { Name = entry.Name });
        string? project = request.Parent.Length > 0 ? request.Parent : CallState.Of(context).Caller!.Project;
        await authorizer.AuthorizeAsync(context, project ?? "");
        var found = new List<AuditEntry>();
        AuditEntry? last = pager.After;
        for (int read = 0; found.Count <= pager.PageSize && read < MaxEntriesPerCall; read += EntriesPerRead)
        {
            IReadOnlyList<AuditEntry> part = await registry.ReadAuditAsync(project, last is null ? long.MaxValue : AuditNames.NumberOf(last), EntriesPerRead, context.CancellationToken);
            found.AddRange(part.Where(entry => matches(entry)));
            if (part.Count < EntriesPerRead && found.Count <= pager.PageSize)
                return new ListAuditEntriesResponse { AuditEntries = { found } };
            last = part[^1];
        }

        List<AuditEntry> page = found[..Math.Min(found.Count, pager.PageSize)];
        return new ListAuditEntriesResponse { AuditEntries = { page }, NextPageToken = pager.TokenAfter(found.Count > pager.PageSize ? page[^1] : last!) };
    }
}
