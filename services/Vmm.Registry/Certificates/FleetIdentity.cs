using System.Formats.Asn1;
using System.Net.Security;
using System.Security.Cryptography.X509Certificates;

namespace Vmm.Registry.Certificates;

/// <summary>What a process of a fleet is to the others.</summary>
public enum FleetRole
{
    /// <summary>A front end.</summary>
    Frontend,
    /// <summary>A worker.</summary>
    Worker,
}

/// <summary>Who a certificate of the fleet's authority says its holder is.</summary>
/// <param name="Role">What it is.</param>
/// <param name="Id">Which one; null where any of that role may hold the certificate.</param>
public sealed record FleetPeer(FleetRole Role, string? Id)
{
    private const string SubjectAlternativeName = "2.5.29.17";
    private const string FrontendUri = "spiffe://vmm/frontend";
    private const string WorkerUri = "spiffe://vmm/worker";
    private static readonly Asn1Tag UriTag = new(TagClass.ContextSpecific, 6);

    /// <summary>
    /// Reads the SPIFFE ID in a certificate's alternative names: <c>spiffe://vmm/frontend</c> or <c>spiffe://vmm/worker</c>, either
    /// followed by <c>/{id}</c> or not. As SPIFFE has it, there must be exactly one URI.
    /// </summary>
    /// <returns>Null where it says nothing of the kind.</returns>
    public static FleetPeer? Of(X509Certificate2 certificate)
    {
        ArgumentNullException.ThrowIfNull(certificate);
        if (certificate.Extensions.SingleOrDefault(extension => extension.Oid?.Value == SubjectAlternativeName) is not { } names)
            return null;
        string? uri = null;
        try
        {
            AsnReader reader = new AsnReader(names.RawData, AsnEncodingRules.DER).ReadSequence();
            while (reader.HasData)
            {
                if (!reader.PeekTag().HasSameClassAndValue(UriTag))
                    reader.ReadEncodedValue();
                else if (uri is not null)
                    return null;
                else
                    uri = reader.ReadCharacterString(UniversalTagNumber.IA5String, UriTag);
            }
        }
        catch (AsnContentException)
        {
            return null;
        }

        return uri is null ? null : Parse(uri, FrontendUri, FleetRole.Frontend) ?? Parse(uri, WorkerUri, FleetRole.Worker);
    }

    private static FleetPeer? Parse(string uri, string prefix, FleetRole role) =>
        uri == prefix ? new FleetPeer(role, null)
        : uri.StartsWith(prefix + "/", StringComparison.Ordinal) && uri.Length > prefix.Length + 1 ? new FleetPeer(role, uri[(prefix.Length + 1)..])
        : null;
}

/// <summary>
/// Mutual TLS between the processes of a fleet: each shows a certificate of the fleet's authority that says what it is, and looks for
/// the same at the other end. Host names mean nothing here: who is meant is in the certificate, wherever it is. Thread-safe.
/// </summary>
public sealed class FleetIdentity(OwnCertificate certificate, TrustedAuthorities authorities)
{
    /// <summary>For a worker that listens: front ends may call it, and workers that fetch from it.</summary>
    public SslServerAuthenticationOptions ForListening() => new()
    {
        ServerCertificateContext = certificate.Current,
        ClientCertificateRequired = true,
        RemoteCertificateValidationCallback = (_, given, chain, _) => authorities.TrustsClient(given, chain) && FleetPeer.Of((X509Certificate2)given!) is not null,
    };

    /// <summary>For calls of a worker.</summary>
    /// <param name="worker">Its id in the fleet.</param>
    public SslClientAuthenticationOptions ForCalling(string worker) => new()
    {
        // Asked at every connection, so that a renewed certificate is shown.
        LocalCertificateSelectionCallback = (_, _, _, _, _) => certificate.Current.TargetCertificate,
        RemoteCertificateValidationCallback = (_, given, chain, _) =>
            authorities.TrustsServer(given, chain) && FleetPeer.Of((X509Certificate2)given!) is { Role: FleetRole.Worker } peer && (peer.Id is null || peer.Id == worker),
    };
}
