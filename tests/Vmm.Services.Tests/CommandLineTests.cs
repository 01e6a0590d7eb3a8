using Npgsql;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>What <c>vmmd</c> says of a command line that is wrong, before it listens.</summary>
public sealed class CommandLineTests
{
    private const int Usage = 64;

    [Theory]
    [InlineData(Usage, "'--bogus' is not an option.", "--bogus")]
    [InlineData(Usage, "'--bogus' is not an option.", "--bogus=1")]
    [InlineData(Usage, "'--bogus' is not an option.", "worker", "--bogus", "1")]
    [InlineData(Usage, "'serve' is neither an option nor", "serve")]
    [InlineData(Usage, "--lease needs a value.", "--lease")]
    [InlineData(Usage, "--lease x: a number from 1 to 3600 is needed.", "--lease", "x")]
    [InlineData(Usage, "--label x: KEY=VALUE is needed.", "worker", "--label", "x")]
    [InlineData(1, "A fleet's registry is needed: --registry, or VMMD_REGISTRY.", "frontend")]
    [InlineData(1, "--registry is no connection string: ", "frontend", "--registry", "garbage")]
    [InlineData(1, "The fleet's registry cannot be reached: Failed to connect to /nowhere/", "frontend", "--registry", "Host=/nowhere;Database=vmm")]
    public async Task What_is_wrong_is_said(int exitCode, string message, params string[] arguments)
    {
        string folder = Directory.CreateTempSubdirectory("vmmd-usage-").FullName;
        try
        {
            (int code, string output) = await FleetProcess.RunAsync("vmmd.dll", new Dictionary<string, string> { ["VMMD_STATE"] = folder, ["VMMD_LISTEN"] = "127.0.0.1:0" }, arguments);
            Assert.Equal(exitCode, code);
            Assert.Contains($"vmmd: {message}", output, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public async Task Tells_its_version()
    {
        (int code, string output) = await FleetProcess.RunAsync("vmmd.dll", new Dictionary<string, string>(), "--version");
        Assert.Equal((0, typeof(Vmm.Server.VmmServer).Assembly.GetName().Version!.ToString(3)), (code, output.Trim()));
    }
}

/// <summary>What a process of a fleet says of a database that is there and does not let it in.</summary>
[Collection(PostgresTests.Name)]
public sealed class RefusedRegistryTests(SharedPostgres postgres)
{
    [RequiresPackageFact("postgresql")]
    public async Task A_database_that_does_not_exist_is_named()
    {
        var registry = new NpgsqlConnectionStringBuilder(await postgres.NewSchemaAsync()) { Database = "nope" };
        (int code, string output) = await FleetProcess.RunAsync("vmmd.dll", new Dictionary<string, string>(), "frontend", "--listen", "127.0.0.1:0", "--registry", registry.ConnectionString);
        Assert.Equal((1, "vmmd: The fleet's registry refuses: database \"nope\" does not exist"), (code, output.Trim()));
    }
}
