using System.Globalization;
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

    /// <summary>Why a client's certificate is not accepted, for operators; null where it is of one of them.</summary>
    public string? JudgeClient(X509Certificate? certificate, X509Chain? presented) => Judge(certificate, presented, CertificateTrust.ClientPurpose);

    /// <summary>Likewise of a server's; its host's name is not looked at.</summary>
    public string? JudgeServer(X509Certificate? certificate, X509Chain? presented) => Judge(certificate, presented, CertificateTrust.ServerPurpose);

    // Nothing of what a stranger's certificate says is repeated but its times.
    private string? Judge(X509Certificate? certificate, X509Chain? presented, string purpose)
    {
        if (certificate is not X509Certificate2 given)
            return "no certificate is shown";
        return CertificateTrust.Judge(given, _files.Current, presented, purpose) switch
        {
            null => null,
            var reason when reason.Contains(nameof(X509ChainStatusFlags.NotTimeValid), StringComparison.Ordinal) =>
                string.Create(CultureInfo.InvariantCulture, $"the certificate is valid from {given.NotBefore.ToUniversalTime():u} to {given.NotAfter.ToUniversalTime():u} only"),
            var reason when reason.Contains(nameof(X509ChainStatusFlags.UntrustedRoot), StringComparison.Ordinal) || reason.Contains(nameof(X509ChainStatusFlags.PartialChain), StringComparison.Ordinal) =>
                $"the certificate is not of an authority in {path} ({reason})",
            var reason => $"the certificate cannot be used for this ({reason})",
        };
    }
}
