using System.Buffers.Text;
using System.Security.Cryptography;
using System.Text;
using Google.Protobuf;
using Vmm.Protos;

namespace Vmm.Frontend.Listing;

/// <summary>
/// Pages through resources in any order. A page token carries the last resource of its page: the next page is what comes
/// after it in the order, so that creations and deletions in between neither repeat nor skip others.
/// </summary>
internal sealed class Pager<T> where T : class, IMessage<T>, new()
{
    private const int DefaultPageSize = 50;
    private const int MaxPageSize = 1000;
    private const int MaxTokenLength = 64 << 10;
    private const int QueryDigestBytes = 8;

    private readonly int _pageSize;
    private readonly byte[] _query;
    private readonly T? _after;
    private readonly Comparison<T> _order;
    private readonly Func<T, T> _key;

    /// <param name="query">What must be the same on every page: everything that was asked but size and token.</param>
    /// <param name="pageSize">As asked.</param>
    /// <param name="pageToken">As asked.</param>
    /// <param name="orderBy">As asked.</param>
    /// <param name="orders">The fields that can be ordered by; <c>name</c> is one, and unique.</param>
    /// <param name="key">The part of a resource that orders look at.</param>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT.</exception>
    public Pager(string query, int pageSize, string pageToken, string orderBy, IReadOnlyDictionary<string, Comparison<T>> orders, Func<T, T> key)
    {
        if (pageSize < 0)
            throw ApiError.InvalidField("page_size", $"is {pageSize}; it must not be negative.");
        _pageSize = pageSize == 0 ? DefaultPageSize : Math.Min(pageSize, MaxPageSize);
        _order = ParseOrder(orderBy, orders);
        _key = key;
        _query = SHA256.HashData(Encoding.UTF8.GetBytes($"{query}\n{orderBy}"))[..QueryDigestBytes];
        if (pageToken.Length > 0)
            _after = ParseToken(pageToken);
    }

    /// <summary>Resources on a page, at most.</summary>
    public int PageSize => _pageSize;

    /// <summary>What the page comes after, as far as orders look at it; null for the first.</summary>
    public T? After => _after;

    /// <summary>The token of the page that comes after a resource.</summary>
    public string TokenAfter(T last) => Base64Url.EncodeToString([.. _query, .. _key(last).ToByteArray()]);

    /// <summary>The page, and the token of the next one; empty where this is the last.</summary>
    public (List<T> Page, string NextToken) Take(IEnumerable<T> resources)
    {
        List<T> ordered = [.. resources.Where(resource => _after is null || _order(resource, _after) > 0)];
        ordered.Sort(_order);
        if (ordered.Count <= _pageSize)
            return (ordered, "");
        List<T> page = ordered[.._pageSize];
        return (page, TokenAfter(page[^1]));
    }

    private T ParseToken(string token)
    {
        try
        {
            if (token.Length <= MaxTokenLength)
            {
                byte[] bytes = Base64Url.DecodeFromChars(token);
                if (bytes.AsSpan().StartsWith(_query))
                {
                    var key = new T();
                    key.MergeFrom(bytes.AsSpan(QueryDigestBytes).ToArray());
                    return key;
                }
            }
        }
        catch (Exception exception) when (exception is FormatException or InvalidProtocolBufferException)
        {
            // Every token that was not made here gets the one answer below.
        }

        throw ApiError.InvalidField("page_token", "is not a token of this list; parent, filter and order_by must be those of the page before.");
    }

    private static Comparison<T> ParseOrder(string orderBy, IReadOnlyDictionary<string, Comparison<T>> orders)
    {
        const int maxFields = 8;
        var comparisons = new List<Comparison<T>>();
        string[] parts = orderBy.Length == 0 ? [] : orderBy.Split(',', maxFields + 1);
        if (parts.Length > maxFields)
            throw ApiError.InvalidField("order_by", $"names more than {maxFields} fields.");
        foreach (string part in parts)
        {
            string[] words = part.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words.Length is < 1 or > 2 || (words.Length == 2 && words[1] is not ("asc" or "desc")) || !orders.TryGetValue(words[0], out Comparison<T>? comparison))
                throw ApiError.InvalidField("order_by", $"has {ApiError.Quote(part)}; each part must be one of {string.Join(", ", orders.Keys)}, with or without asc or desc.");
            comparisons.Add(words.Length == 2 && words[1] == "desc" ? (a, b) => comparison(b, a) : comparison);
        }

        comparisons.Add(orders["name"]);
        return (a, b) =>
        {
            foreach (Comparison<T> comparison in comparisons)
                if (comparison(a, b) is not 0 and int result)
                    return result;
            return 0;
        };
    }
}
