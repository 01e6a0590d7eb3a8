using Vmm.Cli;
using Vmm.Cli.Terminal;
using Vmm.Server;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Certificates as <c>vmmctl certs</c> makes them.</summary>
internal static class LabCertificates
{
    /// <summary>Runs <c>vmmctl certs</c>.</summary>
    public static async Task MakeAsync(params string[] arguments)
    {
        using var output = new MemoryStream();
        using var error = new StringWriter();
        using var console = new CliConsole(output, error, null);
        int code = await CommandLine.RunAsync(["certs", .. arguments], console, CancellationToken.None);
        Assert.True(code == 0, error.ToString());
    }

    /// <summary>The files of a certificate, as <c>FOLDER/worker</c>, with the authority beside them.</summary>
    public static TlsFiles At(string path) => new() { Certificate = $"{path}.crt", Key = $"{path}.key", Authorities = Path.Combine(Path.GetDirectoryName(path)!, "ca.crt") };
}
