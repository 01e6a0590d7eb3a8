using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Vmm.Protos;

/// <summary>Judging the certificate of whoever is at the other end by authorities of one's own choice: for the client and for servers.</summary>
public static class CertificateTrust
{
    /// <summary>What a server's certificate is for (RFC 5280, 4.2.1.12).</summary>
    public const string ServerPurpose = "1.3.6.1.5.5.7.3.1";

    /// <summary>What a client's certificate is for (RFC 5280, 4.2.1.12).</summary>
    public const string ClientPurpose = "1.3.6.1.5.5.7.3.2";

    /// <summary>The certificates of a PEM file: authorities, and intermediate ones where there are any.</summary>
    /// <exception cref="CryptographicException">There is none, or one that cannot be read.</exception>
    public static X509Certificate2Collection ReadPem(string pem)
    {
        var certificates = new X509Certificate2Collection();
        certificates.ImportFromPem(pem);
        return certificates.Count > 0 ? certificates : throw new CryptographicException("There is no certificate in the file.");
    }

    /// <summary>Judges a certificate. Revocation is not looked at.</summary>
    /// <param name="certificate">Of the other end.</param>
    /// <param name="authorities">Who may have issued it; those among them that are not self-signed are intermediates only.</param>
    /// <param name="presented">What the other end has sent along, or null.</param>
    /// <param name="purpose">What it is to be for.</param>
    /// <returns>Why it is not trusted, for people; null where it is.</returns>
    public static string? Judge(X509Certificate2 certificate, X509Certificate2Collection authorities, X509Chain? presented, string purpose)
    {
        ArgumentNullException.ThrowIfNull(certificate);
        ArgumentNullException.ThrowIfNull(authorities);
        using var chain = new X509Chain();
        chain.ChainPolicy.TrustMode = X509ChainTrustMode.CustomRootTrust;
        chain.ChainPolicy.RevocationMode = X509RevocationMode.NoCheck;
        chain.ChainPolicy.DisableCertificateDownloads = true;
        chain.ChainPolicy.ApplicationPolicy.Add(new Oid(purpose));
        foreach (X509Certificate2 authority in authorities)
            (authority.SubjectName.RawData.AsSpan().SequenceEqual(authority.IssuerName.RawData) ? chain.ChainPolicy.CustomTrustStore : chain.ChainPolicy.ExtraStore).Add(authority);
        foreach (X509ChainElement element in presented?.ChainElements ?? Enumerable.Empty<X509ChainElement>())
            chain.ChainPolicy.ExtraStore.Add(element.Certificate);
        return chain.Build(certificate) ? null : string.Join(", ", chain.ChainStatus.Select(status => status.Status).Distinct());
    }
}
