using System.Security.Cryptography;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;

namespace Vmm.Registry;

/// <summary>What projects are and what may be in them, the same for every registry.</summary>
internal static class Quotas
{
    private const int EtagBytes = 8;

    /// <summary>Refuses what a project has no room for.</summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED, with every limit in the way.</exception>
    public static void RequireRoom(string project, ProjectQuota? quota, Resources used, Resources needs)
    {
        if (quota is null)
            return;
        var scarce = new List<string>();
        Check(quota.HasVms, quota.Vms, used.Vms, needs.Vms, "VMs");
        Check(quota.HasVcpus, quota.Vcpus, used.Vcpus, needs.Vcpus, "vCPUs");
        Check(quota.HasMemoryMib, quota.MemoryMib, used.MemoryMib, needs.MemoryMib, "MiB of memory");
        if (scarce.Count > 0)
            throw ApiError.QuotaExceeded(project, scarce);

        void Check(bool isLimited, long limit, long present, long more, string what)
        {
            if (isLimited && present + more > limit)
                scarce.Add($"{present} of {limit} {what} are taken, and {more} more are needed");
        }
    }

    /// <summary>Refuses one more image where there are as many as there may be.</summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED.</exception>
    public static void RequireRoomForImage(string project, ProjectQuota? quota, long others)
    {
        if (quota is { HasImages: true } && others >= quota.Images)
            throw ApiError.QuotaExceeded(project, [$"{others} of {quota.Images} images are there"]);
    }

    /// <summary>Refuses one more stream where there are as many as there may be.</summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED.</exception>
    public static void RequireRoomForStream(string project, ProjectQuota? quota, long others)
    {
        if (quota is { HasStreams: true } && others >= quota.Streams)
            throw ApiError.QuotaExceeded(project, [$"{others} of {quota.Streams} streams are under way"]);
    }

    /// <summary>Whether placements look at it.</summary>
    public static bool LimitsVms(ProjectQuota? quota) => quota is { HasVms: true } or { HasVcpus: true } or { HasMemoryMib: true };

    /// <summary>A project in its next version.</summary>
    public static Project Stamp(Project project, DateTimeOffset now)
    {
        project.UpdateTime = Timestamp.FromDateTimeOffset(now);
        project.CreateTime ??= project.UpdateTime;
        return Tag(project);
    }

    /// <summary>Gives a project its etag.</summary>
    public static Project Tag(Project project)
    {
        project.Etag = "";
        project.Etag = Convert.ToHexStringLower(SHA256.HashData(project.ToByteArray()).AsSpan(0, EtagBytes));
        return project;
    }

    /// <exception cref="Grpc.Core.RpcException">ABORTED.</exception>
    public static void RequireEtag(Project project, string etag)
    {
        if (etag.Length > 0 && etag != project.Etag)
            throw ApiError.Aborted("ETAG_MISMATCH", $"{project.Name} has changed since; look at it again.");
    }

    /// <exception cref="Grpc.Core.RpcException">FAILED_PRECONDITION.</exception>
    public static void RequireDeletable(string project, bool isEmpty)
    {
        if (project == ResourceName.DefaultParent)
            throw ApiError.FailedPrecondition("PROJECT_REQUIRED", "PROJECT", project, $"{project} is always there: it is what an empty parent stands for.");
        if (!isEmpty)
            throw ApiError.FailedPrecondition("PROJECT_NOT_EMPTY", "PROJECT", project, $"{project} has VMs, images or snapshots, or an upload under way; delete them first.");
    }
}
