using System.Text.RegularExpressions;
using k8s;
using k8s.Models;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.Services.Tests.Deployment;

/// <summary>
/// The manifests for Kubernetes: read into the types of its own client, which knows every field, and compared with each other, with what deploy/README.md
/// makes beforehand, and with what vmmd can be told.
/// </summary>
public sealed partial class KubernetesTests
{
    private const string Namespace = "vmm";

    private static readonly string Deploy = Path.Combine(Repository.Root, "deploy");

    private readonly IReadOnlyList<object> _objects = Read(File.ReadAllText(Path.Combine(Deploy, "kubernetes", "vmm.yaml")));

    private IReadOnlyList<Workload> Workloads =>
    [
        .. _objects.OfType<V1Deployment>().Select(each => new Workload(each.Name(), "frontend", each.Spec.Selector, each.Spec.Template, [], "")),
        .. _objects.OfType<V1StatefulSet>().Select(each => new Workload(each.Name(), "worker", each.Spec.Selector, each.Spec.Template, each.Spec.VolumeClaimTemplates, each.Spec.ServiceName)),
    ];

    [Fact]
    public void A_field_that_Kubernetes_does_not_know_is_an_error()
    {
        Assert.NotEmpty(Read("apiVersion: v1\nkind: Service\nmetadata:\n  name: x\nspec:\n  clusterIP: None\n"));
        Assert.ThrowsAny<Exception>(() => Read("apiVersion: v1\nkind: Service\nmetadata:\n  name: x\nspec:\n  clusterIp: None\n"));
        Assert.Equal(
            ["Deployment", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "PodDisruptionBudget", "Service", "Service", "StatefulSet"],
            _objects.Cast<IKubernetesObject>().Select(each => each.Kind).Order(StringComparer.Ordinal));
        Assert.All(_objects.Cast<IKubernetesObject<V1ObjectMeta>>(), each => Assert.Equal(each is V1Namespace ? null : Namespace, each.Namespace()));
        Assert.Equal(Namespace, _objects.OfType<V1Namespace>().Single().Name());
    }

    [Fact]
    public void What_selects_pods_finds_them()
    {
        Assert.Equal(2, Workloads.Count);
        Assert.All(Workloads, workload =>
        {
            Assert.True(Selects(workload.Selector, workload.Pod), workload.Name);
            Assert.All(workload.Pod.Spec.TopologySpreadConstraints, constraint => Assert.True(Selects(constraint.LabelSelector, workload.Pod), workload.Name));
            Assert.Single(_objects.OfType<V1PodDisruptionBudget>(), budget => Selects(budget.Spec.Selector, workload.Pod));
            // By one Service each, at a port that the pods have.
            V1Service service = Assert.Single(_objects.OfType<V1Service>(), service => service.Spec.Selector.All(label => workload.Pod.Metadata.Labels.Contains(label)));
            Assert.All(service.Spec.Ports, port => Assert.Contains(port.TargetPort.Value, Ports(workload).Keys));
            if (workload.Role == "worker")
                Assert.Equal((workload.Service, "None", true), (service.Name(), service.Spec.ClusterIP, service.Spec.PublishNotReadyAddresses));
        });
        V1NetworkPolicy policy = _objects.OfType<V1NetworkPolicy>().Single();
        Assert.Equal("worker", Assert.Single(Workloads, workload => Selects(policy.Spec.PodSelector, workload.Pod)).Role);
        Assert.All(Workloads, workload => Assert.Contains(policy.Spec.Ingress.SelectMany(rule => rule.FromProperty ?? []), from => Selects(from.PodSelector, workload.Pod)));
        Assert.All(policy.Spec.Ingress.SelectMany(rule => rule.Ports), port => Assert.All(Workloads, workload => Assert.Contains(port.Port.Value, Ports(workload).Keys)));
    }

    [Fact]
    public void Files_are_where_they_are_mounted_and_secrets_are_those_of_the_walkthrough()
    {
        string readme = File.ReadAllText(Path.Combine(Deploy, "README.md"));
        // As kubectl is told to make them: literals, and files by their keys or by their own names.
        Dictionary<string, HashSet<string>> made = [];
        foreach (Match secret in Secrets().Matches(readme))
            foreach (string name in secret.Groups["name"].Value == "vmm-$role-tls" ? (string[])["vmm-frontend-tls", "vmm-worker-tls"] : [secret.Groups["name"].Value])
                made[name] = [.. Keys().Matches(secret.Value).Select(key => key.Groups["key"].Value)];
        Assert.Equal(["vmm-admin-token", "vmm-frontend-tls", "vmm-registry", "vmm-worker-tls"], made.Keys.Order(StringComparer.Ordinal));

        Assert.All(Workloads, workload =>
        {
            V1Container container = workload.Container;
            Dictionary<string, string> claims = workload.Claims.ToDictionary(claim => claim.Name(), static _ => "claim");
            Dictionary<string, V1Volume> volumes = workload.Pod.Spec.Volumes.ToDictionary(volume => volume.Name);
            // Nothing is declared that is not mounted, nor the other way round.
            Assert.Equal(claims.Keys.Concat(volumes.Keys).Order(StringComparer.Ordinal), container.VolumeMounts.Select(mount => mount.Name).Order(StringComparer.Ordinal));
            Assert.All(volumes.Values, volume => Assert.True(volume.EmptyDir is not null || made.ContainsKey(volume.Secret.SecretName), volume.Name));
            Assert.All(container.Env.Where(variable => variable.ValueFrom?.SecretKeyRef is not null), variable =>
                Assert.Contains(variable.ValueFrom.SecretKeyRef.Key, made[variable.ValueFrom.SecretKeyRef.Name]));
            Assert.All(container.Env.Where(variable => variable.Value?.StartsWith('/') == true), variable =>
            {
                V1VolumeMount mount = Assert.Single(container.VolumeMounts, mount => variable.Value.StartsWith(mount.MountPath + "/", StringComparison.Ordinal));
                if (variable.Name == "VMMD_STATE")
                    Assert.Contains(mount.Name, claims.Keys);
                else
                    Assert.Contains(variable.Value[(mount.MountPath.Length + 1)..], made[volumes[mount.Name].Secret.SecretName]);
            });
            // The file system is read-only, and .NET writes here.
            Assert.True(container.SecurityContext.ReadOnlyRootFilesystem);
            Assert.Contains(container.VolumeMounts, mount => mount.MountPath == "/tmp" && volumes[mount.Name].EmptyDir is not null);
        });
    }

    [Fact]
    public async Task Vmmd_knows_what_it_is_told_and_is_asked_where_it_listens()
    {
        (int exitCode, string help) = await FleetProcess.RunAsync("vmmd.dll", new Dictionary<string, string>(), "--help");
        Assert.Equal(0, exitCode);
        HashSet<string> known = [.. Variables().Matches(help).Select(variable => variable.Value)];
        string image = await File.ReadAllTextAsync(Path.Combine(Deploy, "images", "Dockerfile"));
        Assert.All(Workloads, workload =>
        {
            V1Container container = workload.Container;
            Assert.Equal([workload.Role], container.Args);
            Dictionary<string, string?> variables = container.Env.ToDictionary(variable => variable.Name, variable => (string?)variable.Value);
            Assert.Empty(variables.Keys.Where(name => name.StartsWith("VMMD_", StringComparison.Ordinal)).Except(known));
            // Kubernetes puts in what was defined before.
            Assert.All(container.Env.Where(variable => variable.Value?.Contains("$(", StringComparison.Ordinal) == true), variable =>
                Assert.All(References().Matches(variable.Value), reference => Assert.InRange(variables.Keys.ToList().IndexOf(reference.Groups[1].Value), 0, variables.Keys.ToList().IndexOf(variable.Name) - 1)));

            IReadOnlyDictionary<string, int> ports = Ports(workload);
            Assert.Equal($"0.0.0.0:{ports["grpc"]}", variables["VMMD_LISTEN"]);
            Assert.Equal($"0.0.0.0:{ports["metrics"]}", variables["VMMD_METRICS"]);
            Assert.Equal($"{ports["metrics"]}", workload.Pod.Metadata.Annotations["prometheus.io/port"]);
            if (workload.Role == "worker")
                Assert.Equal($"$(POD_NAME).{workload.Service}.{Namespace}.svc:{ports["grpc"]}", variables["VMMD_ADVERTISE"]);
            V1Probe[] probes = [.. new[] { container.StartupProbe, container.ReadinessProbe, container.LivenessProbe }.OfType<V1Probe>()];
            Assert.Equal(workload.Role == "worker" ? 2 : 3, probes.Length);
            Assert.All(probes, probe => Assert.Equal(["vmmd", "health", workload.Role], probe.Exec.Command));
            Assert.Contains($"--uid {workload.Pod.Spec.SecurityContext.RunAsUser} ", image, StringComparison.Ordinal);
            Assert.Contains($"--gid {workload.Pod.Spec.SecurityContext.RunAsGroup} ", image, StringComparison.Ordinal);
        });
    }

    /// <summary>The profile "restricted" of Kubernetes' Pod Security Standards, which the namespace enforces: a pod that it does not let in is never made, and the workload says so to nobody who does not ask.</summary>
    [Fact]
    public void Pods_are_what_their_namespace_lets_in()
    {
        Assert.Equal("restricted", _objects.OfType<V1Namespace>().Single().Metadata.Labels["pod-security.kubernetes.io/enforce"]);
        Assert.All(Workloads, workload =>
        {
            V1PodSpec pod = workload.Pod.Spec;
            Assert.False(pod.HostNetwork == true || pod.HostPID == true || pod.HostIPC == true || pod.HostUsers == true, workload.Name);
            Assert.Null(pod.InitContainers);
            Assert.Null(pod.SecurityContext.Sysctls);
            Assert.True(pod.SecurityContext.RunAsNonRoot);
            Assert.NotEqual(0, pod.SecurityContext.RunAsUser);
            Assert.Equal("RuntimeDefault", pod.SecurityContext.SeccompProfile.Type);
            // Secrets and empty folders, and claims by the StatefulSet: none of the host's.
            Assert.All(pod.Volumes, volume => Assert.True(volume.Secret is not null ^ volume.EmptyDir is not null, volume.Name));
            V1SecurityContext container = workload.Container.SecurityContext;
            Assert.False(container.AllowPrivilegeEscalation);
            Assert.True(container.Privileged is null or false);
            Assert.True(container.RunAsUser is null && container.RunAsNonRoot is null && container.SeccompProfile is null && container.ProcMount is null);
            Assert.Equal(["ALL"], container.Capabilities.Drop);
            Assert.Null(container.Capabilities.Add);
            Assert.All(workload.Container.Ports, port => Assert.Null(port.HostPort));
        });
    }

    [Fact]
    public void What_guests_may_take_of_a_worker_is_less_than_what_the_node_lets_it_have()
    {
        V1Container container = Assert.Single(Workloads, workload => workload.Role == "worker").Container;
        decimal guests = decimal.Parse(container.Env.Single(variable => variable.Name == "VMMD_MAX_MEMORY").Value, System.Globalization.CultureInfo.InvariantCulture) * (1 << 20);
        decimal limit = container.Resources.Limits["memory"].ToDecimal();
        Assert.InRange(guests, limit / 2, limit * 15 / 16);
        // It is evicted before others where it has not asked for all that it takes.
        Assert.Equal(limit, container.Resources.Requests["memory"].ToDecimal());
    }

    private static List<object> Read(string manifests) => KubernetesYaml.LoadAllFromString(manifests, strict: true);

    private static IReadOnlyDictionary<string, int> Ports(Workload workload) => workload.Container.Ports.ToDictionary(port => port.Name, port => port.ContainerPort);

    private static bool Selects(V1LabelSelector selector, V1PodTemplateSpec pod) =>
        (selector.MatchLabels ?? new Dictionary<string, string>()).All(label => pod.Metadata.Labels.Contains(label))
        && (selector.MatchExpressions ?? []).All(term => term.OperatorProperty == "In" && pod.Metadata.Labels.TryGetValue(term.Key, out string? value) && term.Values.Contains(value));

    [GeneratedRegex("create secret generic (?<name>[a-z$-]+)[^\n]*")]
    private static partial Regex Secrets();

    [GeneratedRegex("--from-(?:literal|file)=(?<key>[^= ]+)")]
    private static partial Regex Keys();

    [GeneratedRegex("VMMD_[A-Z_]+")]
    private static partial Regex Variables();

    [GeneratedRegex("\\$\\(([A-Z_]+)\\)")]
    private static partial Regex References();

    private sealed record Workload(string Name, string Role, V1LabelSelector Selector, V1PodTemplateSpec Pod, IList<V1PersistentVolumeClaim> Claims, string Service)
    {
        public V1Container Container => Pod.Spec.Containers.Single();
    }
}
