using System.Globalization;
using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Vmm.Protos;

namespace Vmm.Client;

/// <summary>Whom a client trusts, and what it shows of itself.</summary>
public sealed record VmmCredentials
{
    /// <summary>A PEM file of the authorities whose servers are trusted; null for those of the system.</summary>
    public string? Authorities { get; init; }

    /// <summary>A PEM file with the client's certificate, for servers that ask for one; null for none.</summary>
    public string? Certificate { get; init; }

    /// <summary>The PEM file with the certificate's key.</summary>
    public string? Key { get; init; }

    /// <summary>The secret of a token, for servers that want one; null for none. It is sent to the server with each call, never without TLS
    /// over a network.</summary>
    public string? Token { get; init; }

    /// <summary>Has a handler use them.</summary>
    /// <returns>The handler to make requests with.</returns>
    /// <exception cref="ArgumentException">They cannot be used with this address.</exception>
    internal HttpMessageHandler ApplyTo(SocketsHttpHandler handler, Uri address)
    {
        if (Token is not null && (Token.Length == 0 || !Token.All(c => c is > ' ' and <= '~')))
            throw new ArgumentException("The token is no secret as 'token create' prints it, which is one word.");
        if ((Certificate is null) != (Key is null))
            throw new ArgumentException("A client's certificate and its key are needed together.");
        if (address.Scheme != Uri.UriSchemeHttps)
        {
            if (Token is not null && !address.IsLoopback)
                throw new ArgumentException($"The token will not be sent to {address.Authority} without TLS, where others can read it: write https://.");
            return handler;
        }

        try
        {
            X509Certificate2? own = Certificate is null ? null : Import(X509Certificate2.CreateFromPemFile(Certificate, Key));
            if (own is not null)
                handler.SslOptions.ClientCertificates = [own];
            X509Certificate2Collection? authorities = Authorities is null ? null : CertificateTrust.ReadPem(File.ReadAllText(Authorities));
            handler.SslOptions.RemoteCertificateValidationCallback = (_, certificate, chain, errors) => Judge(certificate as X509Certificate2, authorities, chain, errors);
            return new RefusalHandler(handler, () => new VmmRefusedException(Refused(own), own is not null));
        }
        catch (CryptographicException exception)
        {
            throw new ArgumentException($"{string.Join(" or ", new[] { Certificate, Key, Authorities }.OfType<string>())} is not as it should be: {exception.Message}", exception);
        }
    }

    private string Refused(X509Certificate2? own) => own is null
        ? "the server hangs up on a client that has shown no certificate"
        : string.Create(CultureInfo.InvariantCulture, $"the server hangs up on a client with the certificate in {Certificate}, which is valid from {own.NotBefore.ToUniversalTime():u} to {own.NotAfter.ToUniversalTime():u}");

    // With authorities of one's own it is only theirs to say who is trusted; whose host it is remains to be seen.
    private static bool Judge(X509Certificate2? certificate, X509Certificate2Collection? authorities, X509Chain? chain, SslPolicyErrors errors)
    {
        if (certificate is null)
            throw new VmmTrustException("the server shows no certificate");
        if ((errors & SslPolicyErrors.RemoteCertificateNameMismatch) != 0)
            throw new VmmTrustException("the server's certificate is for another host name");
        string? reason = authorities is not null
            ? CertificateTrust.Judge(certificate, authorities, chain, CertificateTrust.ServerPurpose)
            : errors == SslPolicyErrors.None ? null : string.Join(", ", chain?.ChainStatus.Select(status => status.Status).Distinct() ?? []);
        return reason is null ? true : throw new VmmTrustException($"the server's certificate is not of {(authorities is null ? "an authority of this system" : "the given authority")} ({reason})");
    }

    private static X509Certificate2 Import(X509Certificate2 certificate)
    {
        if (!OperatingSystem.IsWindows())
            return certificate;
        // Its TLS takes no keys that exist in memory only.
        using (certificate)
            return X509CertificateLoader.LoadPkcs12(certificate.Export(X509ContentType.Pkcs12), null);
    }
}

/// <summary>A server is not who it should be. The message says why, without a full stop.</summary>
public sealed class VmmTrustException(string message) : Exception(message);

/// <summary>
/// A server hangs up on a client as soon as the handshake of TLS is done, as it does where it wants a certificate and does not accept what it is shown. The message says after what, without a
/// full stop; why, only the server's log does.
/// </summary>
public sealed class VmmRefusedException(string message, bool hasCertificate) : IOException(message)
{
    /// <summary>Whether the client has a certificate to show.</summary>
    public bool HasCertificate { get; } = hasCertificate;
}
