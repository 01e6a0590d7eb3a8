using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
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

    /// <summary>Issues a certificate that <c>vmmctl certs</c> would not, by its authority.</summary>
    public static void Issue(string lab, string name, string uri, DateTimeOffset from, DateTimeOffset to)
    {
        using X509Certificate2 authority = X509Certificate2.CreateFromPemFile(Path.Combine(lab, "ca.crt"), Path.Combine(lab, "ca.key"));
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest($"CN={name}", key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        names.AddUri(new Uri(uri));
        request.CertificateExtensions.Add(names.Build());
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid("1.3.6.1.5.5.7.3.1"), new Oid("1.3.6.1.5.5.7.3.2")], critical: false));
        using X509Certificate2 issued = request.Create(authority.SubjectName, X509SignatureGenerator.CreateForECDsa(authority.GetECDsaPrivateKey()!), from, to, [1, 2, 3, 4]);
        File.WriteAllText(Path.Combine(lab, $"{name}.crt"), issued.ExportCertificatePem());
        File.WriteAllText(Path.Combine(lab, $"{name}.key"), key.ExportPkcs8PrivateKeyPem());
    }

    /// <summary>The files of a certificate, as <c>FOLDER/worker</c>, with the authority beside them.</summary>
    public static TlsFiles At(string path) => new() { Certificate = $"{path}.crt", Key = $"{path}.key", Authorities = Path.Combine(Path.GetDirectoryName(path)!, "ca.crt") };
}
