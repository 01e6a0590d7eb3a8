using System.Security.Cryptography.X509Certificates;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary><c>vmmctl certs</c>, and what vmmctl says where it meets the wrong ones.</summary>
public sealed class CertsCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmmctl-certs-").FullName;

    private string Lab => Path.Combine(_folder, "lab");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task Init_makes_an_authority_and_what_a_lab_needs_and_overwrites_nothing()
    {
        var run = await Invocation.RunAsync("certs", "init", Lab, "--host", "vmm.example", "--host", "10.0.0.1", "--days", "30");
        Assert.Equal((0, ""), (run.ExitCode, run.Error));
        string[] names = ["ca", "frontend", "worker", "client"];
        Assert.Equal(names.SelectMany(name => (string[])[Path.Combine(Lab, $"{name}.crt"), Path.Combine(Lab, $"{name}.key")]), run.Output.Trim().Split('\n'));
        Assert.Equal(8, Directory.GetFiles(Lab).Length);
        foreach (var key in Directory.GetFiles(Lab, "*.key"))
            if (!OperatingSystem.IsWindows())
                Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(key));
        using var frontend = X509CertificateLoader.LoadCertificateFromFile(Path.Combine(Lab, "frontend.crt"));
        Assert.True(frontend.MatchesHostname("vmm.example") && frontend.MatchesHostname("10.0.0.1") && !frontend.MatchesHostname("localhost"));
        Assert.InRange(frontend.NotAfter - DateTime.Now, TimeSpan.FromDays(29), TimeSpan.FromDays(31));

        var before = Contents();
        File.Delete(Path.Combine(Lab, "ca.key"));
        var again = await Invocation.RunAsync("certs", "init", Lab);
        Assert.Equal(ExitCode.Failed, again.ExitCode);
        Assert.Contains("ca.crt exists already", again.Error, StringComparison.Ordinal);
        before.Remove(Path.Combine(Lab, "ca.key"));
        Assert.Equal(before, Contents());
    }

    [Fact]
    public async Task Renew_issues_the_same_once_more()
    {
        await Invocation.RunAsync("certs", "init", Lab, "--worker", "a", "--host", "vmm.example");
        var before = Contents();
        await File.WriteAllTextAsync(Path.Combine(Lab, "foreign.crt"), await OtherAuthorityAsync());
        var run = await Invocation.RunAsync("certs", "renew", Lab, "--days", "10");
        Assert.Equal((0, "client\nfrontend\nworker-a\n"), (run.ExitCode, run.Output));
        foreach (var (path, content) in before)
            Assert.Equal(Path.GetFileNameWithoutExtension(path) == "ca", content == await File.ReadAllTextAsync(path));
        using var frontend = X509Certificate2.CreateFromPemFile(Path.Combine(Lab, "frontend.crt"), Path.Combine(Lab, "frontend.key"));
        Assert.True(frontend.MatchesHostname("vmm.example"));
        Assert.InRange(frontend.NotAfter - DateTime.Now, TimeSpan.FromDays(9), TimeSpan.FromDays(11));
        var without = await Invocation.RunAsync("certs", "renew", _folder);
        Assert.Equal(ExitCode.Failed, without.ExitCode);
        Assert.Contains("'vmmctl certs init' makes one", without.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--host", "a b")]
    [InlineData("--worker", "A")]
    [InlineData("--days", "0")]
    public async Task What_cannot_be_is_refused_and_nothing_is_made(string option, string value)
    {
        Assert.Equal(ExitCode.Usage, (await Invocation.RunAsync("certs", "init", Lab, option, value)).ExitCode);
        Assert.False(Directory.Exists(Lab));
    }

    [Fact]
    public async Task A_server_that_is_not_what_its_address_says_is_told_from_one_that_is_not_there()
    {
        await Invocation.RunAsync("certs", "init", Lab);
        var authority = Path.Combine(Lab, "ca.crt");
        await using var bare = await FakeServer.StartAsync();
        await ExpectAsync("not with TLS", "--server", bare.Address.Replace("http:", "https:", StringComparison.Ordinal), "--ca", authority);
        await using var secured = await FakeServer.StartAsync(X509Certificate2.CreateFromPemFile(Path.Combine(Lab, "frontend.crt"), Path.Combine(Lab, "frontend.key")));
        Assert.Equal(ExitCode.Success, (await Invocation.RunAsync("vm", "list", "--server", secured.Address, "--ca", authority)).ExitCode);
        await ExpectAsync("https://", "--server", secured.Address.Replace("https:", "http:", StringComparison.Ordinal));
        await ExpectAsync("--ca FILE", "--server", secured.Address);
        await File.WriteAllTextAsync(Path.Combine(_folder, "other.crt"), await OtherAuthorityAsync());
        await ExpectAsync("not of the given authority", "--server", secured.Address, "--ca", Path.Combine(_folder, "other.crt"));
        await ExpectAsync("another host name", "--server", secured.Address.Replace("127.0.0.1", "[::ffff:127.0.0.1]", StringComparison.Ordinal), "--ca", authority);

        foreach (var wrong in (string[][])[["--ca", Path.Combine(Lab, "ca.key")], ["--cert", Path.Combine(Lab, "client.crt")], ["--cert", Path.Combine(Lab, "client.crt"), "--key", Path.Combine(Lab, "worker.key")]])
            Assert.Equal(ExitCode.Usage, (await Invocation.RunAsync(["vm", "list", "--server", secured.Address, .. wrong])).ExitCode);
    }

    private static async Task ExpectAsync(string says, params string[] arguments)
    {
        var run = await Invocation.RunAsync(["vm", "list", .. arguments]);
        Assert.Equal(ExitCode.Unreachable, run.ExitCode);
        Assert.Contains(says, run.Error, StringComparison.Ordinal);
    }

    private async Task<string> OtherAuthorityAsync()
    {
        var other = Path.Combine(_folder, "other");
        await Invocation.RunAsync("certs", "init", other);
        return await File.ReadAllTextAsync(Path.Combine(other, "ca.crt"));
    }

    private SortedDictionary<string, string> Contents() => new(Directory.GetFiles(Lab).ToDictionary(path => path, File.ReadAllText, StringComparer.Ordinal), StringComparer.Ordinal);
}
