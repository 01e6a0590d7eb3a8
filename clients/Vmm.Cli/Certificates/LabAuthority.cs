using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Vmm.Cli.Certificates;

/// <summary>A certificate that an authority is to issue.</summary>
/// <param name="Name">Its common name, and that of its files.</param>
/// <param name="Hosts">DNS names and addresses of the host that shows it.</param>
/// <param name="Uri">The SPIFFE ID that says what its holder is to a fleet; null for a client of the public API.</param>
internal sealed record LabCertificate(string Name, IReadOnlyList<string> Hosts, string? Uri);

/// <summary>
/// A small certificate authority in a folder, for a lab: <c>ca.crt</c> and <c>ca.key</c>, and beside them what it has issued. Keys
/// are for their user only.
/// </summary>
internal static class LabAuthority
{
    private const string AuthorityName = "ca";
    private const int SerialBytes = 16;
    private const string ServerPurpose = "1.3.6.1.5.5.7.3.1";
    private const string ClientPurpose = "1.3.6.1.5.5.7.3.2";
    private const string SubjectKeyIdentifier = "2.5.29.14";
    private const string AuthorityKeyIdentifier = "2.5.29.35";
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite;
    private const UnixFileMode Public = Private | UnixFileMode.GroupRead | UnixFileMode.OtherRead;

    /// <summary>Of hosts whose clocks run apart.</summary>
    private static readonly TimeSpan Backdated = TimeSpan.FromHours(1);

    /// <summary>Makes an authority and what it issues. Nothing is overwritten.</summary>
    /// <param name="folder">Made where it does not exist.</param>
    /// <param name="certificates">What to issue.</param>
    /// <param name="authorityLifetime">How long the authority lasts.</param>
    /// <param name="lifetime">How long the others do; not beyond the authority.</param>
    /// <param name="now">When they begin.</param>
    /// <returns>The files that were written.</returns>
    /// <exception cref="IOException">One of them exists; then none is written.</exception>
    public static IReadOnlyList<string> Create(string folder, IReadOnlyList<LabCertificate> certificates, TimeSpan authorityLifetime, TimeSpan lifetime, DateTimeOffset now)
    {
        string[] names = [AuthorityName, .. certificates.Select(certificate => certificate.Name)];
        foreach (string path in names.SelectMany(name => (string[])[CertificatePath(folder, name), KeyPath(folder, name)]))
            if (File.Exists(path))
                throw new IOException($"{path} exists already, and nothing is overwritten. 'vmmctl certs renew' renews what is there.");
        Directory.CreateDirectory(folder);
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=Vmm lab authority", key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(certificateAuthority: true, hasPathLengthConstraint: true, pathLengthConstraint: 0, critical: true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign | X509KeyUsageFlags.CrlSign, critical: true));
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, critical: false));
        using X509Certificate2 authority = request.CreateSelfSigned(now - Backdated, now + authorityLifetime);
        Write(KeyPath(folder, AuthorityName), key.ExportPkcs8PrivateKeyPem(), Private);
        Write(CertificatePath(folder, AuthorityName), authority.ExportCertificatePem(), Public);
        foreach (LabCertificate certificate in certificates)
            Issue(authority, folder, certificate.Name, $"CN={certificate.Name}", Extensions(certificate), now, lifetime);
        return [.. names.SelectMany(name => (string[])[CertificatePath(folder, name), KeyPath(folder, name)])];
    }

    /// <summary>Issues all that the authority of a folder has issued once more, with new keys. Each file is replaced at once.</summary>
    /// <returns>The names of the certificates.</returns>
    /// <exception cref="IOException">There is no authority, or a file cannot be read or written.</exception>
    /// <exception cref="CryptographicException">A file is not what it should be.</exception>
    public static IReadOnlyList<string> Renew(string folder, TimeSpan lifetime, DateTimeOffset now)
    {
        if (!File.Exists(CertificatePath(folder, AuthorityName)))
            throw new FileNotFoundException($"{folder} has no authority ({Path.GetFileName(CertificatePath(folder, AuthorityName))}): 'vmmctl certs init' makes one.");
        using X509Certificate2 authority = X509Certificate2.CreateFromPemFile(CertificatePath(folder, AuthorityName), KeyPath(folder, AuthorityName));
        var renewed = new List<string>();
        foreach (string path in Directory.EnumerateFiles(folder, "*.crt").Order(StringComparer.Ordinal))
        {
            string name = Path.GetFileNameWithoutExtension(path);
            if (name == AuthorityName)
                continue;
            using X509Certificate2 old = X509Certificate2.CreateFromPem(File.ReadAllText(path));
            if (!IsOf(authority, old))
                continue;
            Issue(authority, folder, name, old.Subject, old.Extensions.Where(extension => extension.Oid?.Value is not (SubjectKeyIdentifier or AuthorityKeyIdentifier)), now, lifetime);
            renewed.Add(name);
        }

        return renewed;
    }

    // By key: every lab's authority has the same name.
    private static bool IsOf(X509Certificate2 authority, X509Certificate2 certificate) =>
        authority.Extensions.OfType<X509SubjectKeyIdentifierExtension>().SingleOrDefault() is { } key
        && certificate.Extensions.OfType<X509AuthorityKeyIdentifierExtension>().SingleOrDefault()?.KeyIdentifier is { } issuer
        && key.SubjectKeyIdentifierBytes.Span.SequenceEqual(issuer.Span);

    private static IEnumerable<X509Extension> Extensions(LabCertificate certificate)
    {
        yield return new X509BasicConstraintsExtension(certificateAuthority: false, hasPathLengthConstraint: false, pathLengthConstraint: 0, critical: true);
        yield return new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature, critical: true);
        // A front end is a server of clients and a client of workers; a worker is called, and fetches from others.
        OidCollection purposes = certificate.Uri is null ? [new Oid(ClientPurpose)] : [new Oid(ServerPurpose), new Oid(ClientPurpose)];
        yield return new X509EnhancedKeyUsageExtension(purposes, critical: false);
        if (certificate.Uri is null)
            yield break;
        var names = new SubjectAlternativeNameBuilder();
        names.AddUri(new Uri(certificate.Uri));
        foreach (string host in certificate.Hosts)
        {
            if (IPAddress.TryParse(host, out IPAddress? address))
                names.AddIpAddress(address);
            else
                names.AddDnsName(host);
        }

        yield return names.Build();
    }

    private static void Issue(X509Certificate2 authority, string folder, string name, string subject, IEnumerable<X509Extension> extensions, DateTimeOffset now, TimeSpan lifetime)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest(subject, key, HashAlgorithmName.SHA256);
        foreach (X509Extension extension in extensions)
            request.CertificateExtensions.Add(extension);
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, critical: false));
        request.CertificateExtensions.Add(X509AuthorityKeyIdentifierExtension.CreateFromCertificate(authority, includeKeyIdentifier: true, includeIssuerAndSerial: false));
        DateTimeOffset end = now + lifetime < authority.NotAfter ? now + lifetime : authority.NotAfter;
        DateTimeOffset begin = now - Backdated > authority.NotBefore ? now - Backdated : authority.NotBefore;
        using X509Certificate2 issued = request.Create(authority, begin, end, RandomNumberGenerator.GetBytes(SerialBytes));
        Write(KeyPath(folder, name), key.ExportPkcs8PrivateKeyPem(), Private);
        Write(CertificatePath(folder, name), issued.ExportCertificatePem(), Public);
    }

    private static string CertificatePath(string folder, string name) => Path.Combine(folder, $"{name}.crt");

    private static string KeyPath(string folder, string name) => Path.Combine(folder, $"{name}.key");

    private static void Write(string path, string pem, UnixFileMode mode)
    {
        string temporary = $"{path}.new";
        File.Delete(temporary);
        var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows())
            options.UnixCreateMode = mode;
        using (var writer = new StreamWriter(temporary, options))
            writer.Write($"{pem}\n");
        File.Move(temporary, path, overwrite: true);
    }
}
