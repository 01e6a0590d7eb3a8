using System.Formats.Asn1;
using System.Globalization;
using System.Net;
using System.Net.Security;
using System.Security.Authentication;
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
public sealed class FleetIdentity(OwnCertificate certificate, TrustedAuthorities authorities, RefusedPeers refused)
{
    private const string Nobody = "the certificate is nobody's of a fleet: it has no URI spiffe://vmm/frontend or spiffe://vmm/worker";

    /// <summary>For a worker that listens: front ends may call it, and workers that fetch from it.</summary>
    /// <param name="caller">Where a connection comes from, for the log.</param>
    public SslServerAuthenticationOptions ForListening(EndPoint? caller) => new()
    {
        ServerCertificateContext = certificate.Current,
        ClientCertificateRequired = true,
        RemoteCertificateValidationCallback = (_, given, chain, _) =>
        {
            string? reason = authorities.JudgeClient(given, chain) ?? (FleetPeer.Of((X509Certificate2)given!) is null ? Nobody : null);
            if (reason is not null)
                refused.Note($"of {caller}, {reason}.");
            return reason is null;
        },
    };

    /// <summary>For calls of a worker. The exception of a connection that is not made for it says why.</summary>
    /// <param name="worker">Its id in the fleet.</param>
    public SslClientAuthenticationOptions ForCalling(string worker) => new()
    {
        // Asked at every connection, so that a renewed certificate is shown.
        LocalCertificateSelectionCallback = (_, _, _, _, _) => certificate.Current.TargetCertificate,
        RemoteCertificateValidationCallback = (_, given, chain, _) =>
            (authorities.JudgeServer(given, chain) ?? Mismatch(FleetPeer.Of((X509Certificate2)given!), FleetRole.Worker, worker)) is { } reason
                ? throw new AuthenticationException($"Of workers/{worker}, {reason}.")
                : true,
    };

    /// <summary>What is to be said of a worker that hangs up on this process as soon as the handshake is done.</summary>
    /// <param name="worker"><c>workers/{worker}</c>.</param>
    public IOException Refused(string worker)
    {
        X509Certificate2 own = certificate.Current.TargetCertificate;
        return new IOException(string.Create(
            CultureInfo.InvariantCulture,
            $"{worker} hangs up on who has the certificate in {certificate.Path}, which is valid from {own.NotBefore.ToUniversalTime():u} to {own.NotAfter.ToUniversalTime():u}; its log says why."));
    }

    /// <summary>Why others of the fleet, if they trust whom this process trusts, will not accept it; null where they will.</summary>
    /// <param name="role">What it is.</param>
    /// <param name="id">Its id, where it is a worker.</param>
    public string? OwnProblem(FleetRole role, string? id)
    {
        X509Certificate2 own = certificate.Current.TargetCertificate;
        string? reason = authorities.JudgeClient(own, null) ?? (role == FleetRole.Worker ? authorities.JudgeServer(own, null) : null) ?? Mismatch(FleetPeer.Of(own), role, id);
        return reason is null ? null : $"of {certificate.Path}, {reason}.";
    }

    private static string? Mismatch(FleetPeer? peer, FleetRole role, string? id) => peer switch
    {
        null => Nobody,
        _ when peer.Role != role => $"the certificate is a {(peer.Role == FleetRole.Frontend ? "front end" : "worker")}'s, and not a {(role == FleetRole.Frontend ? "front end" : "worker")}'s",
        _ when peer.Id is not null && peer.Id != id => "the certificate is another's of the same role",
        _ => null,
    };
}
