using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Frontend.Access;
using Vmm.Frontend.Listing;
using Vmm.Frontend.Validation;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Frontend;

/// <summary>The public API of projects. The contract is in <c>protos/vmm/v1/project_service.proto</c>.</summary>
public sealed class ProjectsApi(IAccessRegistry registry, IAuthorizer authorizer) : ProjectService.ProjectServiceBase
{
    private const string DisplayName = "display_name";
    private const string Quota = "quota";

    /// <inheritdoc/>
    public override async Task<Project> CreateProject(CreateProjectRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Check(ResourceName.IsId(request.ProjectId), "project_id", $"is {ApiError.Quote(request.ProjectId)}; it must match [a-z]([a-z0-9-]{{0,61}}[a-z0-9])?.");
        violations.RequestId(request.RequestId);
        Check(violations, request.Project);
        violations.ThrowIfAny();
        var project = new Project { Name = $"projects/{request.ProjectId}", DisplayName = request.Project?.DisplayName ?? "", Quota = request.Project?.Quota };
        await authorizer.AuthorizeAsync(context, project.Name);
        return await registry.CreateProjectAsync(project, RequestKeys.Of(nameof(CreateProject), project.Name, request), context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Project> GetProject(GetProjectRequest request, ServerCallContext context)
    {
        await CheckAsync(new Violations(), request.Name, context);
        return await registry.FindProjectAsync(request.Name, context.CancellationToken) ?? throw ApiError.NotFound(request.Name);
    }

    /// <inheritdoc/>
    public override async Task<ListProjectsResponse> ListProjects(ListProjectsRequest request, ServerCallContext context)
    {
        var pager = new Pager<Project>("projects", request.PageSize, request.PageToken, "", ResourceFields.ProjectOrders, static project => new Project { Name = project.Name });
        await authorizer.AuthorizeAsync(context, "");
        Caller caller = CallState.Of(context).Caller!;
        IReadOnlyList<Project> all = await registry.ListProjectsAsync(context.CancellationToken);
        (List<Project> page, string next) = pager.Take(all.Where(project => caller.Sees(project.Name)));
        return new ListProjectsResponse { Projects = { page }, NextPageToken = next };
    }

    /// <inheritdoc/>
    public override async Task<Project> UpdateProject(UpdateProjectRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Check(request.Project is not null, "project", "is required.");
        violations.Change(request.Project?.Etag ?? "", request.RequestId, "project.etag");
        Check(violations, request.Project);
        string[] paths = [.. request.UpdateMask?.Paths.Take(16) ?? []];
        foreach (string path in paths)
            violations.Check(path is DisplayName or Quota or "*", "update_mask", $"has {ApiError.Quote(path)}; only display_name and quota can be changed.");
        await CheckAsync(violations, request.Project?.Name ?? "", context, "project.name");
        bool all = paths.Length == 0 || paths.Contains("*");
        Project wanted = request.Project!;
        return await registry.UpdateProjectAsync(
            wanted.Name,
            project =>
            {
                if (all || paths.Contains(DisplayName))
                    project.DisplayName = wanted.DisplayName;
                if (all || paths.Contains(Quota))
                    project.Quota = wanted.Quota?.Clone();
            },
            wanted.Etag,
            RequestKeys.Of(nameof(UpdateProject), wanted.Name, request),
            context.CancellationToken);
    }

    /// <inheritdoc/>
    public override async Task<Empty> DeleteProject(DeleteProjectRequest request, ServerCallContext context)
    {
        var violations = new Violations();
        violations.Change(request.Etag, request.RequestId);
        await CheckAsync(violations, request.Name, context);
        await registry.DeleteProjectAsync(request.Name, request.Etag, RequestKeys.Of(nameof(DeleteProject), request.Name, request), context.CancellationToken);
        return new Empty();
    }

    private static void Check(Violations violations, Project? project)
    {
        violations.DisplayName(project?.DisplayName ?? "", "project.display_name");
        if (project?.Quota is not { } quota)
            return;
        foreach ((string field, long limit) in ((string, long)[])[("vms", quota.Vms), ("vcpus", quota.Vcpus), ("memory_mib", quota.MemoryMib), ("images", quota.Images), ("streams", quota.Streams)])
            violations.Check(limit >= 0, $"project.quota.{field}", $"is {limit}; it must not be negative, and is unset for no limit.");
    }

    private async Task CheckAsync(Violations violations, string name, ServerCallContext context, string field = "name")
    {
        violations.ProjectName(name, field);
        violations.ThrowIfAny();
        await authorizer.AuthorizeAsync(context, name);
    }
}
