using System.Security.Cryptography.X509Certificates;
using Vmm.Protos;

namespace Vmm.Registry.Certificates;

/// <summary>Authorities whose certificates are trusted, from a PEM file. Thread-safe.</summary>
/// <param name="path">The file.</param>
/// <param name="time">For looking at it now and then.</param>
/// <exception cref="ArgumentException">The file cannot be used; the message says why.</exception>
public sealed class TrustedAuthorities(string path, TimeProvider time)
{
    private readonly PemFiles<X509Certificate2Collection> _files = new([path], static content => CertificateTrust.ReadPem(content[0]), time);

    /// <summary>Whether a client's certificate is of one of them.</summary>
    public bool TrustsClient(X509Certificate? certificate, X509Chain? presented) => Trusts(certificate, presented, CertificateTrust.ClientPurpose);

    /// <summary>Whether a server's certificate is of one of them; its host's name is not looked at.</summary>
    public bool TrustsServer(X509Certificate? certificate, X509Chain? presented) => Trusts(certificate, presented, CertificateTrust.ServerPurpose);

    private bool Trusts(X509Certificate? certificate, X509Chain? presented, string purpose) =>
        certificate is X509Certificate2 given && CertificateTrust.Judge(given, _files.Current, presented, purpose) is null;
}
