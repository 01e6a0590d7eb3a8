using System.Net.Security;
using System.Security.Cryptography.X509Certificates;
using Vmm.Protos;

namespace Vmm.Registry.Certificates;

/// <summary>A certificate of this process, with its key, from two PEM files. Thread-safe.</summary>
/// <param name="certificate">The file with the certificate and what leads to its authority.</param>
/// <param name="key">The file with its private key.</param>
/// <param name="time">For looking at the files now and then.</param>
/// <exception cref="ArgumentException">The files cannot be used; the message says which and why.</exception>
public sealed class OwnCertificate(string certificate, string key, TimeProvider time)
{
    private readonly PemFiles<SslStreamCertificateContext> _files = new([certificate, key], static content => Make(content[0], content[1]), time);

    /// <summary>The file with the certificate.</summary>
    public string Path => certificate;

    /// <summary>As the files have it now.</summary>
    public SslStreamCertificateContext Current => _files.Current;

    private static SslStreamCertificateContext Make(string certificate, string key)
    {
        X509Certificate2 leaf = X509Certificate2.CreateFromPem(certificate, key);
        if (OperatingSystem.IsWindows())
        {
            // Its TLS takes no keys that exist in memory only.
            using X509Certificate2 bare = leaf;
            leaf = X509CertificateLoader.LoadPkcs12(bare.Export(X509ContentType.Pkcs12), null);
        }

        // Offline: nothing is fetched from addresses that certificates name.
        return SslStreamCertificateContext.Create(leaf, CertificateTrust.ReadPem(certificate), offline: true);
    }
}
